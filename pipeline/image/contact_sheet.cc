#include "pipeline/image/contact_sheet.h"

#include <algorithm>
#include <cmath>

#include "pipeline/base/strings.h"
#include "pipeline/image/resize.h"

namespace fresco {
namespace {

constexpr int64_t kMaxPixels = int64_t{256} << 20;

void Paste(const Image& image, int64_t left, int64_t top, Image* sheet) {
  for (int64_t y = 0; y < image.height; ++y) {
    const auto row = image.rgb.begin() + y * image.width * 3;
    std::copy(row, row + size_t{3} * image.width, sheet->rgb.begin() + ((top + y) * sheet->width + left) * 3);
  }
}

}  // namespace

absl::StatusOr<Image> ContactSheet(const std::vector<Image>& images, const ContactSheetOptions& options) {
  if (images.empty()) return absl::InvalidArgumentError("a contact sheet needs an image");
  if (options.cell < 1 || options.padding < 0 || options.columns < 0) {
    return absl::InvalidArgumentError(
        "a contact sheet needs a cell of 1 pixel or more, and padding and columns of 0 or more");
  }
  std::vector<Image> fitted;
  int64_t cell_width = 0, cell_height = 0;
  for (const Image& image : images) {
    fitted.push_back(FitInside(image, options.cell));
    cell_width = std::max<int64_t>(cell_width, fitted.back().width);
    cell_height = std::max<int64_t>(cell_height, fitted.back().height);
  }
  const int64_t count = fitted.size();
  const int64_t wanted = options.columns > 0 ? options.columns : std::llround(std::ceil(std::sqrt(double(count))));
  const int64_t columns = std::min(count, wanted);
  const int64_t rows = (count + columns - 1) / columns;
  const int64_t width = columns * (cell_width + options.padding) + options.padding;
  const int64_t height = rows * (cell_height + options.padding) + options.padding;
  if (width > kMaxPixels / height) {
    return absl::InvalidArgumentError(StrCat("a contact sheet of ", width, "x", height, " pixels is too large"));
  }

  Image sheet{static_cast<int>(width), static_cast<int>(height), {}};
  sheet.rgb.assign(size_t{3} * width * height, options.background);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t left = options.padding + i % columns * (cell_width + options.padding);
    const int64_t top = options.padding + i / columns * (cell_height + options.padding);
    Paste(fitted[i], left + (cell_width - fitted[i].width) / 2, top + (cell_height - fitted[i].height) / 2, &sheet);
  }
  return sheet;
}

}  // namespace fresco
