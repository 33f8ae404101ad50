#include "pipeline/tool/feature_sheet.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "pipeline/image/contact_sheet.h"
#include "pipeline/image/resize.h"

namespace fresco {
namespace {

constexpr int kLeastSide = 96;  // pixels, of a map on the sheet
constexpr int kMostSide = 256;

Image Picture(const FeatureMaps& maps, size_t index) {
  Image image{maps.width, maps.height, {}};
  const float scale = std::max(maps.absmax[index], 1e-30F);
  for (const float value : maps.maps[index]) {
    if (!std::isfinite(value)) {
      image.rgb.insert(image.rgb.end(), {255, 0, 0});
      continue;
    }
    const auto grey = static_cast<uint8_t>(std::clamp(std::lround(127.5F + 127.5F * (value / scale)), 0L, 255L));
    image.rgb.insert(image.rgb.end(), 3, grey);
  }
  const int longest = std::max(image.width, image.height);
  if (longest >= kLeastSide) return FitInside(image, kMostSide);
  const int times = (kLeastSide + longest - 1) / longest;
  return ResizeArea(image, image.width * times, image.height * times);
}

}  // namespace

absl::StatusOr<Image> FeatureSheet(const FeatureMaps& maps) {
  std::vector<Image> pictures;
  for (size_t i = 0; i < maps.maps.size(); ++i) pictures.push_back(Picture(maps, i));
  ContactSheetOptions options;
  options.cell = kMostSide;
  options.padding = 4;
  return ContactSheet(pictures, options);
}

}  // namespace fresco
