#include <webp/decode.h>
#include <webp/encode.h>
#include <webp/mux.h>

#include <memory>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/image/formats.h"
#include "pipeline/image/xmp.h"

namespace fresco {
namespace {

using Mux = std::unique_ptr<WebPMux, decltype(&WebPMuxDelete)>;

struct Picture : WebPPicture {
  Picture() { WebPPictureInit(this); }
  ~Picture() { WebPPictureFree(this); }
  Picture(const Picture&) = delete;
  Picture& operator=(const Picture&) = delete;
};

struct Memory : WebPMemoryWriter {
  Memory() { WebPMemoryWriterInit(this); }
  ~Memory() { WebPMemoryWriterClear(this); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
};

struct Data : WebPData {
  Data() { WebPDataInit(this); }
  ~Data() { WebPDataClear(this); }
  Data(const Data&) = delete;
  Data& operator=(const Data&) = delete;
};

// Not a copy.
WebPData View(std::string_view bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

std::string_view ToView(const WebPData& data) {
  return {reinterpret_cast<const char*>(data.bytes), data.size};
}

std::string_view Describe(VP8StatusCode code) {
  switch (code) {
    case VP8_STATUS_NOT_ENOUGH_DATA:
      return "it ends early";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "it has an unknown feature";
    case VP8_STATUS_OUT_OF_MEMORY:
      return "there is no memory for it";
    default:
      return "its data is not WebP's";
  }
}

absl::Status Damaged(VP8StatusCode code) {
  return absl::InvalidArgumentError(StrCat("WebP is damaged: ", Describe(code)));
}

std::string_view Chunk(const WebPMux* mux, const char* name) {
  WebPData data = {};
  if (mux == nullptr || WebPMuxGetChunk(mux, name, &data) != WEBP_MUX_OK) return "";
  return ToView(data);
}

absl::StatusOr<std::string> EncodePixels(const Image& image, int quality) {
  WebPConfig config;
  Picture picture;
  Memory memory;
  if (!WebPConfigInit(&config)) return absl::InternalError("libwebp is of another version than its headers");
  config.quality = static_cast<float>(quality);
  picture.width = image.width;
  picture.height = image.height;
  picture.writer = WebPMemoryWrite;
  picture.custom_ptr = static_cast<WebPMemoryWriter*>(&memory);
  if (!WebPPictureImportRGB(&picture, image.rgb.data(), 3 * image.width) || !WebPEncode(&config, &picture)) {
    return absl::InternalError(StrCat("libwebp's encoder failed with error ", picture.error_code));
  }
  return std::string(reinterpret_cast<const char*>(memory.mem), memory.size);
}

absl::StatusOr<std::string> AddMetadata(const std::string& pixels, const EncodeOptions& options) {
  const std::string exif = options.metadata.empty() ? "" : ExifOf(options.metadata);
  const std::string xmp = WriteXmp(options.metadata, options.generated);
  const WebPData file = View(pixels), exif_data = View(exif), xmp_data = View(xmp);
  const Mux mux(WebPMuxCreate(&file, 0), WebPMuxDelete);
  Data out;
  if (mux == nullptr || (!exif.empty() && WebPMuxSetChunk(mux.get(), "EXIF", &exif_data, 0) != WEBP_MUX_OK) ||
      WebPMuxSetChunk(mux.get(), "XMP ", &xmp_data, 0) != WEBP_MUX_OK ||
      WebPMuxAssemble(mux.get(), &out) != WEBP_MUX_OK) {
    return absl::InternalError("libwebp could not add the metadata");
  }
  return std::string(ToView(out));
}

}  // namespace

absl::StatusOr<DecodedImage> DecodeWebp(std::string_view bytes, int64_t max_pixels) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config)) return absl::InternalError("libwebp is of another version than its headers");
  if (const VP8StatusCode code = WebPGetFeatures(data, bytes.size(), &config.input); code != VP8_STATUS_OK)
    return Damaged(code);
  FRESCO_RETURN_IF_ERROR(CheckSize("WebP", config.input.width, config.input.height, max_pixels));
  if (config.input.has_animation)
    return absl::InvalidArgumentError("WebP is an animation: only still pictures are read");

  DecodedImage decoded;
  decoded.format = ImageFormat::kWebp;
  const int width = decoded.image.width = config.input.width;
  const int height = decoded.image.height = config.input.height;
  std::vector<uint8_t> rgba(size_t{4} * width * height);
  config.output.colorspace = MODE_RGBA;
  config.output.is_external_memory = 1;
  config.output.u.RGBA = {rgba.data(), 4 * width, rgba.size()};
  if (const VP8StatusCode code = WebPDecode(data, bytes.size(), &config); code != VP8_STATUS_OK) return Damaged(code);
  decoded.image.rgb = FlattenOnWhite(rgba);

  const WebPData file = View(bytes);
  const Mux mux(WebPMuxCreate(&file, 0), WebPMuxDelete);
  const std::string_view xmp = Chunk(mux.get(), "XMP ");
  decoded.metadata = MetadataFrom(xmp, Chunk(mux.get(), "EXIF"));
  decoded.generated = SaysGenerated(xmp);
  return decoded;
}

absl::StatusOr<std::string> EncodeWebp(const Image& image, const EncodeOptions& options) {
  if (image.width > WEBP_MAX_DIMENSION || image.height > WEBP_MAX_DIMENSION) {
    return absl::InvalidArgumentError(StrCat("can not be written as WebP: ", image.width, "x", image.height,
                                             " pixels, a side has at most ", WEBP_MAX_DIMENSION));
  }
  FRESCO_ASSIGN_OR_RETURN(std::string pixels, EncodePixels(image, options.quality));
  if (options.metadata.empty() && !options.generated) return pixels;
  return AddMetadata(pixels, options);
}

}  // namespace fresco
