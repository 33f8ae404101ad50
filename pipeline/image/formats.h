// The three formats behind codec.h, which checks what they have in common: the image, the options, the texts.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/image/codec.h"

namespace fresco {

// The keyword of PNG's chunk that holds an XMP packet (XMP Specification Part 3, 1.1.5).
inline constexpr char kXmpKey[] = "XML:com.adobe.xmp";

absl::StatusOr<std::string> EncodePng(const Image& image, const EncodeOptions& options);
absl::StatusOr<std::string> EncodeJpeg(const Image& image, const EncodeOptions& options);
absl::StatusOr<std::string> EncodeWebp(const Image& image, const EncodeOptions& options);

absl::StatusOr<DecodedImage> DecodePng(std::string_view bytes, int64_t max_pixels);
absl::StatusOr<DecodedImage> DecodeJpeg(std::string_view bytes, int64_t max_pixels);
absl::StatusOr<DecodedImage> DecodeWebp(std::string_view bytes, int64_t max_pixels);

// INVALID_ARGUMENT if a picture that claims this size is empty or larger than allowed. `format`: "PNG".
absl::Status CheckSize(std::string_view format, int64_t width, int64_t height, int64_t max_pixels);

// RGBA over white to RGB; both interleaved, four and three bytes per pixel.
std::vector<uint8_t> FlattenOnWhite(const std::vector<uint8_t>& rgba);

// What JPEG and WebP say of a picture: XMP's properties, or EXIF's fields where there are none.
ImageMetadata MetadataFrom(std::string_view xmp, std::string_view exif);

// An EXIF block of the texts that it has a field for.
std::string ExifOf(const ImageMetadata& metadata);

}  // namespace fresco
