#include "client/preview.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/image/codec.h"
#include "pipeline/image/resize.h"

namespace fresco {
namespace {

constexpr int kMaxColumns = 48;
constexpr int kMaxPictureSide = 512;       // pixels that are sent to a terminal that shows pixels
constexpr size_t kKittyChunkBytes = 4096;  // of base64, the protocol's limit

// Leaves the cursor below a picture that moves it nobody knows where.
std::string Framed(std::string_view picture, int rows) {
  // Room first: at the bottom of the screen a picture would scroll away the saved place.
  return StrCat(std::string(rows, '\n'), "\x1b[", rows,
                "A\x1b"
                "7",
                picture,
                "\x1b"
                "8\x1b[",
                rows, "B\r");
}

absl::StatusOr<std::string> AsSmallPng(const Image& image) {
  EncodeOptions options;
  options.png_compression = 1;
  return EncodeImage(FitInside(image, kMaxPictureSide), options);
}

// https://sw.kovidgoyal.net/kitty/graphics-protocol: transmit and show a PNG (f=100) over c x r cells, quietly (q=2).
// Previews are picture 1, which a new one replaces; the last has no number, so that nothing replaces it.
std::string Kitty(std::string_view png, int columns, int rows, bool last) {
  const std::string payload = absl::Base64Escape(ToAbsl(png));
  const std::string_view number = last ? "" : "i=1,p=1,";
  std::string out = last ? "\x1b_Ga=d,d=I,i=1,q=2\x1b\\" : "";
  for (size_t at = 0; at < payload.size(); at += kKittyChunkBytes) {
    const int more = at + kKittyChunkBytes < payload.size() ? 1 : 0;
    out += at == 0 ? absl::StrFormat("\x1b_Ga=T,f=100,%sq=2,C=1,c=%d,r=%d,m=%d;", ToAbsl(number), columns, rows, more)
                   : absl::StrFormat("\x1b_Gm=%d,q=2;", more);
    out += StrCat(payload.substr(at, kKittyChunkBytes), "\x1b\\");
  }
  return out;
}

// https://iterm2.com/documentation-images.html
std::string Iterm(std::string_view png, int columns, int rows) {
  return StrCat("\x1b]1337;File=inline=1;size=", png.size(), ";width=", columns, ";height=", rows,
                ";preserveAspectRatio=1:", absl::Base64Escape(ToAbsl(png)), "\a");
}

std::string Color(int layer, const uint8_t* rgb) {
  return absl::StrFormat("\x1b[%d;2;%d;%d;%dm", layer, rgb[0], rgb[1], rgb[2]);
}

// Two pixels a cell: the upper in the foreground's colour, the lower in the background's.
std::string Blocks(const Image& image) {
  std::string out;
  const size_t row_bytes = size_t{3} * image.width;
  for (int y = 0; y < image.height; y += 2) {
    for (int x = 0; x < image.width; ++x) {
      const uint8_t* upper = image.rgb.data() + y * row_bytes + 3 * x;
      out += Color(38, upper);
      if (y + 1 < image.height) out += Color(48, upper + row_bytes);
      out += "▀";
    }
    out += "\x1b[0m\x1b[K\n";
  }
  return out;
}

}  // namespace

PreviewMode DetectPreviewMode(const std::function<std::string(const char*)>& environment) {
  const std::string term = environment("TERM"), program = environment("TERM_PROGRAM");
  if (term.empty() || term == "dumb") return PreviewMode::kOff;
  const bool multiplexed =
      !environment("TMUX").empty() || !environment("STY").empty();  // tmux and screen swallow pictures
  if (!multiplexed) {
    if (!environment("KITTY_WINDOW_ID").empty() || term == "xterm-kitty" || term == "xterm-ghostty" ||
        program == "ghostty" || program == "WezTerm" || !environment("KONSOLE_VERSION").empty()) {
      return PreviewMode::kKitty;
    }
    if (program == "iTerm.app" || program == "mintty" || program == "vscode") return PreviewMode::kIterm;
  }
  const std::string colors = environment("COLORTERM");
  return colors == "truecolor" || colors == "24bit" ? PreviewMode::kBlocks : PreviewMode::kOff;
}

absl::StatusOr<TerminalPicture> RenderPicture(std::string_view encoded, PreviewMode mode, int columns, bool last) {
  FRESCO_ASSIGN_OR_RETURN(const DecodedImage decoded, DecodeImage(encoded));
  // A cell is about twice as high as wide, so a cell's width is the unit of both sides.
  const Image cells = FitInside(decoded.image, std::clamp(columns - 1, 1, kMaxColumns));
  TerminalPicture picture;
  picture.rows = (cells.height + 1) / 2;
  if (mode == PreviewMode::kBlocks) {
    picture.bytes = Blocks(cells);
    return picture;
  }
  FRESCO_ASSIGN_OR_RETURN(const std::string png, AsSmallPng(decoded.image));
  const std::string pixels =
      mode == PreviewMode::kKitty ? Kitty(png, cells.width, picture.rows, last) : Iterm(png, cells.width, picture.rows);
  picture.bytes = Framed(pixels, picture.rows);
  return picture;
}

}  // namespace fresco
