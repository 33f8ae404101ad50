// PNG, JPEG and WebP, with the parameters of a picture written into it. Over libpng, libjpeg-turbo and libwebp.
// All functions are thread-safe; errors are INVALID_ARGUMENT for bad input and say what is wrong with it.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/image/image.h"

namespace fresco {

enum class ImageFormat { kPng, kJpeg, kWebp };

std::string_view MimeType(ImageFormat format);       // "image/png"
std::string_view FileExtension(ImageFormat format);  // "png", "jpg", "webp"

// Named texts kept inside a picture (UTF-8), in this order. Keys are 1 to 79 printable ASCII characters,
// without spaces at either end or two together (PNG 1.2, 4.2.3, whose rules the other formats share here), and not
// XML:com.adobe.xmp, by which PNG finds its XMP packet.
// PNG: a tEXt chunk each where it is ASCII, else iTXt. JPEG and WebP: one XMP packet with a property per key, and
// EXIF's ImageDescription (the key "Description", else "prompt", else "parameters"), Software ("Software" or
// "software") and UserComment ("parameters"). What a format has no way to write (NUL; in XMP all control characters but
// tab and line ends) becomes U+FFFD; JPEG's segments hold 64 KiB, so texts that are too long for one end early there.
using ImageMetadata = std::vector<std::pair<std::string, std::string>>;

struct EncodeOptions {
  ImageFormat format = ImageFormat::kPng;
  int quality = 90;         // 1..100; JPEG and WebP only
  int png_compression = 3;  // zlib's level, 0..9; 6 saves a sixth of the bytes in ten times the time
  ImageMetadata metadata;
  // Marks the picture as made by a trained model: IPTC's digital source type, in an XMP packet (PNG's too).
  bool generated = false;
};

absl::StatusOr<std::string> EncodeImage(const Image& image, const EncodeOptions& options);

struct DecodedImage {
  Image image;  // alpha is laid over white
  ImageFormat format = ImageFormat::kPng;
  // As written by EncodeImage. Of other programs' pictures: PNG's texts, but for an XMP packet; else EXIF's three
  // fields under the first of their keys.
  ImageMetadata metadata;
  bool generated = false;  // whether it bears the mark of EncodeOptions::generated
};

// The format is found from the first bytes. A picture of more than max_pixels is refused before its pixels are decoded;
// one that is cut short or damaged is refused too.
absl::StatusOr<DecodedImage> DecodeImage(std::string_view bytes, int64_t max_pixels = 64 << 20);

}  // namespace fresco
