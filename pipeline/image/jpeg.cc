// libjpeg reports errors by a callback that may not return: it longjmps back into Try. What has a destructor lives in
// Reader and Writer, outside of what is left that way.
#include <cstddef>
#include <cstdio>
// jpeglib.h needs size_t and FILE before it.
#include <jerror.h>
#include <jpeglib.h>

#include <csetjmp>
#include <cstdlib>
#include <cstring>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/image/formats.h"
#include "pipeline/image/xmp.h"

namespace fresco {
namespace {

constexpr int kExifAndXmp = JPEG_APP0 + 1;  // the marker that holds both
constexpr std::string_view kExifHeader{"Exif\0\0", 6};
constexpr std::string_view kXmpHeader{"http://ns.adobe.com/xap/1.0/\0", 29};
constexpr size_t kMaxMarkerBytes = 65533;
// A progressive JPEG refines all of its pixels in every scan: a small file of very many scans would take minutes.
constexpr int kMaxScans = 200;

struct JpegError {
  jpeg_error_mgr manager;  // first, so that a pointer to it is one to this
  jmp_buf jump;
  char message[JMSG_LENGTH_MAX] = {};
};

[[noreturn]] void OnError(j_common_ptr codec) {
  auto* error = reinterpret_cast<JpegError*>(codec->err);
  codec->err->format_message(codec, error->message);
  longjmp(error->jump, 1);
}

// Level -1 is a warning: the data is damaged, and libjpeg would go on with grey. Bytes between segments do no harm.
void OnMessage(j_common_ptr codec, int level) {
  if (level < 0 && codec->err->msg_code != JWRN_EXTRANEOUS_DATA && codec->err->msg_code != JWRN_ADOBE_XFORM)
    OnError(codec);
}

void OnProgress(j_common_ptr codec) {
  auto* decoder = reinterpret_cast<j_decompress_ptr>(codec);
  if (decoder->input_scan_number <= kMaxScans) return;
  std::strncpy(reinterpret_cast<JpegError*>(codec->err)->message, "it has too many scans", JMSG_LENGTH_MAX - 1);
  longjmp(reinterpret_cast<JpegError*>(codec->err)->jump, 1);
}

jpeg_error_mgr* InitialiseError(JpegError* error) {
  jpeg_std_error(&error->manager);
  error->manager.error_exit = OnError;
  error->manager.emit_message = OnMessage;
  error->manager.output_message = [](j_common_ptr) {};
  return &error->manager;
}

// Runs `steps(context)`, which may only call libjpeg; false if that failed.
template <typename Context>
bool Try(void (*steps)(Context*), Context* context) {
  if (setjmp(context->error.jump)) return false;
  steps(context);
  return true;
}

struct Reader {
  explicit Reader(std::string_view bytes) : bytes(bytes) { decoder.err = InitialiseError(&error); }
  ~Reader() { jpeg_destroy_decompress(&decoder); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  absl::Status Error() const { return absl::InvalidArgumentError(StrCat("JPEG is damaged: ", error.message)); }

  std::string_view bytes;
  JpegError error;
  jpeg_decompress_struct decoder = {};
  jpeg_progress_mgr progress = {};
  std::vector<uint8_t> pixels;
};

void ReadHeader(Reader* reader) {
  jpeg_create_decompress(&reader->decoder);
  reader->progress.progress_monitor = OnProgress;
  reader->decoder.progress = &reader->progress;
  jpeg_save_markers(&reader->decoder, kExifAndXmp, 0xFFFF);
  jpeg_mem_src(&reader->decoder, reinterpret_cast<const unsigned char*>(reader->bytes.data()), reader->bytes.size());
  jpeg_read_header(&reader->decoder, TRUE);
  const J_COLOR_SPACE space = reader->decoder.jpeg_color_space;
  reader->decoder.out_color_space = space == JCS_CMYK || space == JCS_YCCK ? JCS_CMYK : JCS_RGB;
  jpeg_calc_output_dimensions(&reader->decoder);
}

void ReadPixels(Reader* reader) {
  jpeg_start_decompress(&reader->decoder);
  const size_t row_bytes = size_t{reader->decoder.output_width} * reader->decoder.output_components;
  while (reader->decoder.output_scanline < reader->decoder.output_height) {
    JSAMPROW row = reader->pixels.data() + reader->decoder.output_scanline * row_bytes;
    jpeg_read_scanlines(&reader->decoder, &row, 1);
  }
  jpeg_finish_decompress(&reader->decoder);
}

// Without a colour profile, as every viewer does without one. Adobe's CMYK is stored as light, others' as ink.
std::vector<uint8_t> RgbFromCmyk(const std::vector<uint8_t>& cmyk, bool inverted) {
  std::vector<uint8_t> rgb(cmyk.size() / 4 * 3);
  const auto light = [inverted](int value) { return inverted ? value : 255 - value; };
  for (size_t out = 0, in = 0; out < rgb.size(); out += 3, in += 4) {
    for (int c = 0; c < 3; ++c) rgb[out + c] = light(cmyk[in + c]) * light(cmyk[in + 3]) / 255;
  }
  return rgb;
}

// The first APP1 segment that begins with `header`, without it.
std::string_view FindMarker(const jpeg_decompress_struct& decoder, std::string_view header) {
  for (jpeg_saved_marker_ptr marker = decoder.marker_list; marker != nullptr; marker = marker->next) {
    const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (marker->marker == kExifAndXmp && data.starts_with(header)) return data.substr(header.size());
  }
  return "";
}

struct Writer {
  Writer() { encoder.err = InitialiseError(&error); }
  ~Writer() {
    jpeg_destroy_compress(&encoder);
    std::free(out);
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  JpegError error;
  jpeg_compress_struct encoder = {};
  const Image* image = nullptr;
  int quality = 0;
  std::string exif, xmp;         // segments with their headers; empty: none
  unsigned char* out = nullptr;  // libjpeg's, by malloc
  unsigned long out_size = 0;    // NOLINT(google-runtime-int): libjpeg's type
};

void WriteMarker(jpeg_compress_struct* encoder, const std::string& data) {
  if (data.empty()) return;
  jpeg_write_marker(encoder, kExifAndXmp, reinterpret_cast<const JOCTET*>(data.data()), data.size());
}

void WriteAll(Writer* writer) {
  jpeg_compress_struct* encoder = &writer->encoder;
  jpeg_create_compress(encoder);
  jpeg_mem_dest(encoder, &writer->out, &writer->out_size);
  encoder->image_width = writer->image->width;
  encoder->image_height = writer->image->height;
  encoder->input_components = 3;
  encoder->in_color_space = JCS_RGB;
  jpeg_set_defaults(encoder);
  jpeg_set_quality(encoder, writer->quality, TRUE);
  // Who asks for quality wants the edges of colours too: libjpeg would halve their resolution.
  if (writer->quality >= 90) encoder->comp_info[0].h_samp_factor = encoder->comp_info[0].v_samp_factor = 1;
  encoder->optimize_coding = TRUE;
  jpeg_start_compress(encoder, TRUE);
  WriteMarker(encoder, writer->exif);
  WriteMarker(encoder, writer->xmp);
  const size_t row_bytes = size_t{3} * writer->image->width;
  while (encoder->next_scanline < encoder->image_height) {
    JSAMPROW row = const_cast<JSAMPROW>(writer->image->rgb.data() + encoder->next_scanline * row_bytes);
    jpeg_write_scanlines(encoder, &row, 1);
  }
  jpeg_finish_compress(encoder);
}

std::string WithHeader(std::string_view header, const std::string& data) {
  return data.empty() ? "" : StrCat(header, data);
}

}  // namespace

absl::StatusOr<DecodedImage> DecodeJpeg(std::string_view bytes, int64_t max_pixels) {
  Reader reader(bytes);
  if (!Try(ReadHeader, &reader)) return reader.Error();
  const jpeg_decompress_struct& decoder = reader.decoder;
  FRESCO_RETURN_IF_ERROR(CheckSize("JPEG", decoder.output_width, decoder.output_height, max_pixels));
  DecodedImage decoded;
  // Before the pixels: libjpeg frees the segments at their end.
  const std::string_view xmp = FindMarker(decoder, kXmpHeader);
  decoded.metadata = MetadataFrom(xmp, FindMarker(decoder, kExifHeader));
  decoded.generated = SaysGenerated(xmp);
  const bool cmyk = decoder.out_color_space == JCS_CMYK;
  reader.pixels.resize(size_t{decoder.output_width} * decoder.output_height * (cmyk ? 4 : 3));
  if (!Try(ReadPixels, &reader)) return reader.Error();

  decoded.format = ImageFormat::kJpeg;
  decoded.image.width = static_cast<int>(decoder.output_width);
  decoded.image.height = static_cast<int>(decoder.output_height);
  decoded.image.rgb = cmyk ? RgbFromCmyk(reader.pixels, decoder.saw_Adobe_marker) : std::move(reader.pixels);
  return decoded;
}

absl::StatusOr<std::string> EncodeJpeg(const Image& image, const EncodeOptions& options) {
  Writer writer;
  writer.image = &image;
  writer.quality = options.quality;
  if (!options.metadata.empty()) writer.exif = WithHeader(kExifHeader, ExifOf(options.metadata));
  if (!options.metadata.empty() || options.generated) {
    const size_t most = kMaxMarkerBytes - kXmpHeader.size();
    writer.xmp = WithHeader(kXmpHeader, WriteXmp(options.metadata, options.generated, most));
  }
  if (!Try(WriteAll, &writer)) {
    return absl::InvalidArgumentError(StrCat("can not be written as JPEG: ", writer.error.message));
  }
  return std::string(reinterpret_cast<const char*>(writer.out), writer.out_size);
}

}  // namespace fresco
