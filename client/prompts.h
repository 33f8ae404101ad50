// Files of many prompts.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/drawing.h"

namespace fresco {

struct BatchJob {
  int line = 0;  // of the file, from 1
  DrawRequest request;
  std::string output;  // a pattern of naming.h: where the pictures go
};

struct PromptsOptions {
  DrawRequest flags;   // what the file does not say; its seed belongs to the first prompt, the next have the next
  std::string output;  // a pattern; empty or ending in '/': a folder, whose files are named after line and prompt
  bool format_given = false;    // the flags' format may be written under any name
  bool csv = false;             // else one prompt a line
  std::string prompt_template;  // CSV: "a {colour} {animal}"; empty: the column "prompt"
};

// The jobs of a file's text (UTF-8), in its order. CSV columns of the names negative, seed, width, height, steps,
// guidance and output replace the flags where a cell is not empty; an output may not leave the folder. INVALID_ARGUMENT
// names the line and the column that is wrong; also if two jobs would write the same file.
absl::StatusOr<std::vector<BatchJob>> ParsePrompts(std::string_view text, const PromptsOptions& options);

}  // namespace fresco
