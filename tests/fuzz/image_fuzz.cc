// Pictures in any format: what is decoded is as large as it says and within the limit, and is the same picture when it
// is encoded without loss and decoded again.
#include <cstdint>
#include <string>

#include "pipeline/base/utf8.h"
#include "pipeline/image/codec.h"
#include "tests/fuzz/fuzz.h"

namespace {

constexpr int64_t kMaxPixels = 1 << 18;

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using fresco::fuzz::Check;
  const auto decoded = fresco::DecodeImage(fresco::fuzz::TextOf(data, size), kMaxPixels);
  if (!decoded.ok()) {
    Check(absl::IsInvalidArgument(decoded.status()), "an error of another kind:", decoded.status().ToString());
    return 0;
  }
  const fresco::Image& image = decoded->image;
  Check(image.width > 0 && image.height > 0 && int64_t{image.width} * image.height <= kMaxPixels, "a size beyond all");
  Check(image.rgb.size() == size_t{3} * image.width * image.height, "a picture of more or fewer pixels than its size");
  for (const auto& [key, value] : decoded->metadata) {
    Check(fresco::IsUtf8(key) && fresco::IsUtf8(value), "a text that is not UTF-8");
  }
  const auto encoded = fresco::EncodeImage(image, {.format = fresco::ImageFormat::kPng, .png_compression = 0});
  Check(encoded.ok(), "what was decoded cannot be encoded");
  const auto again = fresco::DecodeImage(*encoded, kMaxPixels);
  Check(again.ok() && again->image.rgb == image.rgb && again->image.width == image.width,
        "a picture that changes without loss");
  return 0;
}
