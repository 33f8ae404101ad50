// libpng reports errors by longjmp: what has a destructor lives in Reader and Writer, outside of the functions that it
// may leave, and those (Try) hold nothing but pointers.
#include <malloc.h>
#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"
#include "pipeline/image/formats.h"
#include "pipeline/image/xmp.h"

namespace fresco {
namespace {

constexpr png_alloc_size_t kMaxChunkBytes = 16 << 20;  // of one text, decompressed
constexpr png_uint_32 kMaxTexts = 256;
// Of all that libpng holds of a file but its rows: 16 KiB can be decompressed into a text of 16 MiB, as often as they
// stand in it. Texts for which nothing is left are passed over.
constexpr size_t kMaxHeldBytes = 48 << 20;

// What libpng was passed as error_ptr.
struct PngError {
  char message[128] = {};
};

[[noreturn]] void OnError(png_structp png, png_const_charp message) {
  auto* error = static_cast<PngError*>(png_get_error_ptr(png));
  std::strncpy(error->message, message, sizeof(error->message) - 1);
  png_longjmp(png, 1);
}

void OnWarning(png_structp, png_const_charp) {}

// Runs `steps(context)`, which may only call libpng; false if that failed.
template <typename Context>
bool Try(png_structp png, void (*steps)(Context*), Context* context) {
  if (setjmp(png_jmpbuf(png))) return false;
  steps(context);
  return true;
}

// What libpng was passed as mem_ptr: how much more it may hold.
struct PngMemory {
  size_t left = kMaxHeldBytes;
};

png_voidp Allocate(png_structp png, png_alloc_size_t bytes) {
  auto* memory = static_cast<PngMemory*>(png_get_mem_ptr(png));
  if (bytes > memory->left) return nullptr;
  void* const block = std::malloc(bytes);
  if (block != nullptr) memory->left -= std::min(memory->left, malloc_usable_size(block));
  return block;
}

void Free(png_structp png, png_voidp block) {
  static_cast<PngMemory*>(png_get_mem_ptr(png))->left += malloc_usable_size(block);
  std::free(block);
}

struct Reader {
  explicit Reader(std::string_view bytes) : rest(bytes) {
    png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &error, OnError, OnWarning, &memory, Allocate, Free);
    info = png_create_info_struct(png);
    png_set_read_fn(png, this, Read);
    png_set_user_limits(png, 1 << 30, 1 << 30);
    png_set_chunk_malloc_max(png, kMaxChunkBytes);
    png_set_chunk_cache_max(png, kMaxTexts);
  }
  ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  static void Read(png_structp png, png_bytep out, size_t size) {
    auto* self = static_cast<Reader*>(png_get_io_ptr(png));
    if (size > self->rest.size()) png_error(png, "it ends early");
    std::memcpy(out, self->rest.data(), size);
    self->rest.remove_prefix(size);
  }

  absl::Status Error() const { return absl::InvalidArgumentError(StrCat("PNG is damaged: ", error.message)); }

  std::string_view rest;
  PngError error;
  PngMemory memory;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::vector<uint8_t> rgba;
  std::vector<png_bytep> rows;
};

void ReadHeader(Reader* reader) {
  png_read_info(reader->png, reader->info);
}

// Whatever the file holds becomes 8-bit RGBA. libpng makes room for rows here, before it has seen one: only of a size
// that is allowed.
void Expand(Reader* reader) {
  png_set_expand(reader->png);
  png_set_scale_16(reader->png);
  png_set_gray_to_rgb(reader->png);
  png_set_add_alpha(reader->png, 0xFF, PNG_FILLER_AFTER);
  png_set_interlace_handling(reader->png);
  png_read_update_info(reader->png, reader->info);
}

void ReadPixels(Reader* reader) {
  png_read_image(reader->png, reader->rows.data());
  png_read_end(reader->png, reader->info);
}

void ReadTexts(const Reader& reader, DecodedImage* decoded) {
  png_textp texts = nullptr;
  const int count = png_get_text(reader.png, reader.info, &texts, nullptr);
  for (int i = 0; i < count; ++i) {
    const bool international = texts[i].compression >= PNG_ITXT_COMPRESSION_NONE;
    const std::string_view text(texts[i].text, international ? texts[i].itxt_length : texts[i].text_length);
    if (std::string_view(texts[i].key) == kXmpKey) {
      decoded->generated = SaysGenerated(text);
      continue;
    }
    decoded->metadata.emplace_back(Latin1ToUtf8(texts[i].key),
                                   international && IsUtf8(text) ? std::string(text) : Latin1ToUtf8(text));
  }
}

struct Writer {
  Writer() {
    png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &error, OnError, OnWarning);
    info = png_create_info_struct(png);
    png_set_write_fn(png, this, Write, [](png_structp) {});
  }
  ~Writer() { png_destroy_write_struct(&png, &info); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  static void Write(png_structp png, png_bytep data, size_t size) {
    static_cast<Writer*>(png_get_io_ptr(png))->out.append(reinterpret_cast<const char*>(data), size);
  }

  PngError error;
  png_structp png = nullptr;
  png_infop info = nullptr;
  const Image* image = nullptr;
  int level = 0;
  std::deque<std::string> values;  // what texts points to
  std::vector<png_text> texts;
  std::string out;
};

void AddText(const char* key, const std::string& value, bool international, Writer* writer) {
  const std::string& clean = writer->values.emplace_back(ReplaceNul(value));
  png_text text = {};
  text.compression = international || !IsAscii(clean) ? PNG_ITXT_COMPRESSION_NONE : PNG_TEXT_COMPRESSION_NONE;
  text.key = const_cast<char*>(key);
  text.text = const_cast<char*>(clean.c_str());
  text.text_length = clean.size();
  writer->texts.push_back(text);
}

void AddTexts(const EncodeOptions& options, Writer* writer) {
  for (const auto& [key, value] : options.metadata) AddText(key.c_str(), value, false, writer);
  if (options.generated) AddText(kXmpKey, WriteXmp({}, true), true, writer);
}

void WriteAll(Writer* writer) {
  png_structp png = writer->png;
  png_set_IHDR(png, writer->info, writer->image->width, writer->image->height, 8, PNG_COLOR_TYPE_RGB,
               PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_set_sRGB(png, writer->info, PNG_sRGB_INTENT_PERCEPTUAL);
  png_set_compression_level(png, writer->level);
  // Trying every filter on every row costs more than zlib's fast levels do.
  png_set_filter(png, PNG_FILTER_TYPE_BASE, writer->level <= 3 ? PNG_FILTER_SUB : PNG_ALL_FILTERS);
  png_set_text(png, writer->info, writer->texts.data(), static_cast<int>(writer->texts.size()));
  png_write_info(png, writer->info);
  const size_t row_bytes = size_t{3} * writer->image->width;
  for (int y = 0; y < writer->image->height; ++y) png_write_row(png, writer->image->rgb.data() + y * row_bytes);
  png_write_end(png, nullptr);
}

}  // namespace

absl::StatusOr<DecodedImage> DecodePng(std::string_view bytes, int64_t max_pixels) {
  Reader reader(bytes);
  if (!Try(reader.png, ReadHeader, &reader)) return reader.Error();
  const int64_t width = png_get_image_width(reader.png, reader.info);
  const int64_t height = png_get_image_height(reader.png, reader.info);
  FRESCO_RETURN_IF_ERROR(CheckSize("PNG", width, height, max_pixels));
  constexpr size_t kRows = 4, kBytesOfPixel = 8;  // that it may hold at a time, of 16-bit RGBA
  reader.memory.left += kRows * kBytesOfPixel * static_cast<size_t>(width);
  if (!Try(reader.png, Expand, &reader)) return reader.Error();
  const size_t row_bytes = png_get_rowbytes(reader.png, reader.info);
  reader.rgba.resize(row_bytes * height);
  for (int64_t y = 0; y < height; ++y) reader.rows.push_back(reader.rgba.data() + y * row_bytes);
  if (!Try(reader.png, ReadPixels, &reader)) return reader.Error();

  DecodedImage decoded;
  decoded.format = ImageFormat::kPng;
  decoded.image = {static_cast<int>(width), static_cast<int>(height), FlattenOnWhite(reader.rgba)};
  ReadTexts(reader, &decoded);
  return decoded;
}

absl::StatusOr<std::string> EncodePng(const Image& image, const EncodeOptions& options) {
  Writer writer;
  writer.image = &image;
  writer.level = options.png_compression;
  AddTexts(options, &writer);
  if (!Try(writer.png, WriteAll, &writer)) {
    return absl::InvalidArgumentError(StrCat("can not be written as PNG: ", writer.error.message));
  }
  return std::move(writer.out);
}

}  // namespace fresco
