// Pictures in a terminal.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "pipeline/image/image.h"

namespace fresco {

enum class PreviewMode { kAuto, kKitty, kIterm, kBlocks, kOff };

// What the terminal understands, by what it says of itself in the environment: the kitty graphics protocol (kitty,
// Ghostty, WezTerm, Konsole), iTerm2's inline images (iTerm2, mintty, VS Code), else coloured half blocks where it has
// colours (COLORTERM), else nothing. `environment` returns "" for what is not set. Never kAuto.
PreviewMode DetectPreviewMode(const std::function<std::string(const char*)>& environment);

struct TerminalPicture {
  std::string bytes;  // to be written; leaves the cursor in the first column of the line below
  int rows = 0;       // lines it takes
};

// `encoded` (PNG, JPEG, WebP) for a terminal of `columns` columns, at most 48 of them wide. INVALID_ARGUMENT if it can
// not be decoded. `mode` is neither kAuto nor kOff. `last`: it stays on the screen; else the next one may take its
// place.
absl::StatusOr<TerminalPicture> RenderPicture(std::string_view encoded, PreviewMode mode, int columns, bool last);

}  // namespace fresco
