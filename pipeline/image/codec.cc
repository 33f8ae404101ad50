#include "pipeline/image/codec.h"

#include <algorithm>
#include <initializer_list>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"
#include "pipeline/image/exif.h"
#include "pipeline/image/formats.h"
#include "pipeline/image/xmp.h"

namespace fresco {
namespace {

constexpr size_t kMaxKeyBytes = 79;  // PNG's keywords

absl::Status CheckImage(const Image& image) {
  if (image.width <= 0 || image.height <= 0) {
    return absl::InvalidArgumentError(StrCat("image of ", image.width, "x", image.height, " pixels has none"));
  }
  if (image.rgb.size() != size_t{3} * image.width * image.height) {
    return absl::InvalidArgumentError(StrCat("image of ", image.width, "x", image.height, " pixels has ",
                                             image.rgb.size(), " bytes, expected 3 per pixel"));
  }
  return absl::OkStatus();
}

// libpng would write one of two spaces.
bool IsKey(std::string_view key) {
  return !key.empty() && key.size() <= kMaxKeyBytes && key.front() != ' ' && key.back() != ' ' &&
         key.find("  ") == std::string_view::npos &&
         std::all_of(key.begin(), key.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

absl::Status CheckOptions(const EncodeOptions& options) {
  if (options.quality < 1 || options.quality > 100) {
    return absl::InvalidArgumentError(StrCat("quality is ", options.quality, ", expected 1 to 100"));
  }
  if (options.png_compression < 0 || options.png_compression > 9) {
    return absl::InvalidArgumentError(StrCat("png_compression is ", options.png_compression, ", expected 0 to 9"));
  }
  for (const auto& [key, value] : options.metadata) {
    if (!IsKey(key)) {
      return absl::InvalidArgumentError(
          "metadata has a key that is not 1 to 79 printable ASCII characters, with single spaces inside at most");
    }
    if (key == kXmpKey) return absl::InvalidArgumentError(StrCat("metadata has the key ", key, ", which is XMP's own"));
    if (!IsUtf8(value)) return absl::InvalidArgumentError(StrCat("metadata \"", key, "\" is not UTF-8"));
  }
  return absl::OkStatus();
}

const std::string* Find(const ImageMetadata& metadata, std::string_view key) {
  const auto it =
      std::find_if(metadata.begin(), metadata.end(), [key](const auto& entry) { return entry.first == key; });
  return it == metadata.end() ? nullptr : &it->second;
}

// The value of the first of `keys` that there is.
std::string FirstOf(const ImageMetadata& metadata, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) {
    if (const std::string* value = Find(metadata, key)) return *value;
  }
  return "";
}

}  // namespace

std::string_view MimeType(ImageFormat format) {
  switch (format) {
    case ImageFormat::kPng:
      return "image/png";
    case ImageFormat::kJpeg:
      return "image/jpeg";
    case ImageFormat::kWebp:
      return "image/webp";
  }
  return "";
}

std::string_view FileExtension(ImageFormat format) {
  switch (format) {
    case ImageFormat::kPng:
      return "png";
    case ImageFormat::kJpeg:
      return "jpg";
    case ImageFormat::kWebp:
      return "webp";
  }
  return "";
}

absl::Status CheckSize(std::string_view format, int64_t width, int64_t height, int64_t max_pixels) {
  if (width <= 0 || height <= 0) {
    return absl::InvalidArgumentError(StrCat(format, " of ", width, "x", height, " pixels"));
  }
  if (width > max_pixels / height) {
    return absl::InvalidArgumentError(
        StrCat(format, " of ", width, "x", height, " pixels: the limit is ", max_pixels, " pixels"));
  }
  return absl::OkStatus();
}

std::vector<uint8_t> FlattenOnWhite(const std::vector<uint8_t>& rgba) {
  std::vector<uint8_t> rgb(rgba.size() / 4 * 3);
  const uint8_t* in = rgba.data();
  for (size_t out = 0; out < rgb.size(); out += 3, in += 4) {
    const int alpha = in[3];
    for (int c = 0; c < 3; ++c) rgb[out + c] = (in[c] * alpha + 255 * (255 - alpha) + 127) / 255;
  }
  return rgb;
}

ImageMetadata MetadataFrom(std::string_view xmp, std::string_view exif) {
  ImageMetadata metadata = ReadXmp(xmp);
  if (!metadata.empty()) return metadata;
  const ExifTexts texts = ReadExif(exif);
  const auto add = [&metadata](std::string_view key, const std::string& value) {
    if (!value.empty()) metadata.emplace_back(key, value);
  };
  add("Description", texts.description);
  add("Software", texts.software);
  add("parameters", texts.comment);
  return metadata;
}

std::string ExifOf(const ImageMetadata& metadata) {
  ExifTexts texts;
  texts.description = FirstOf(metadata, {"Description", "prompt", "parameters"});
  texts.software = FirstOf(metadata, {"Software", "software"});
  texts.comment = FirstOf(metadata, {"parameters"});
  return WriteExif(texts);
}

absl::StatusOr<std::string> EncodeImage(const Image& image, const EncodeOptions& options) {
  FRESCO_RETURN_IF_ERROR(CheckImage(image));
  FRESCO_RETURN_IF_ERROR(CheckOptions(options));
  switch (options.format) {
    case ImageFormat::kPng:
      return EncodePng(image, options);
    case ImageFormat::kJpeg:
      return EncodeJpeg(image, options);
    case ImageFormat::kWebp:
      return EncodeWebp(image, options);
  }
  return absl::InvalidArgumentError("unknown image format");
}

absl::StatusOr<DecodedImage> DecodeImage(std::string_view bytes, int64_t max_pixels) {
  if (bytes.starts_with("\x89PNG\r\n\x1A\n")) return DecodePng(bytes, max_pixels);
  if (bytes.starts_with("\xFF\xD8\xFF")) return DecodeJpeg(bytes, max_pixels);
  if (bytes.size() >= 12 && bytes.starts_with("RIFF") && bytes.substr(8, 4) == "WEBP") {
    return DecodeWebp(bytes, max_pixels);
  }
  return absl::InvalidArgumentError("neither a PNG, a JPEG nor a WebP");
}

}  // namespace fresco
