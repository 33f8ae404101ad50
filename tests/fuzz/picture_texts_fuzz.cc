// The texts in pictures: XMP and EXIF from anywhere, and our own texts through every format.
#include <algorithm>
#include <string>
#include <string_view>

#include "pipeline/base/utf8.h"
#include "pipeline/image/codec.h"
#include "pipeline/image/exif.h"
#include "pipeline/image/xmp.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

bool IsKey(std::string_view key) {
  return !key.empty() && key != "XML:com.adobe.xmp" && key.size() <= 79 && key.front() != ' ' && key.back() != ' ' &&
         key.find("  ") == std::string_view::npos &&
         std::all_of(key.begin(), key.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

// As codec.h says: NUL everywhere, in XMP what XML cannot have.
std::string Replaced(std::string_view text, bool xml) {
  std::string out;
  while (!text.empty()) {
    const char32_t c = TakeUtf8(&text);
    const bool control = c < 0x20 && c != '\t' && c != '\n' && c != '\r';
    const bool bad = c == 0 || (xml && (control || c == 0xFFFE || c == 0xFFFF));
    AppendUtf8(bad ? 0xFFFD : c, &out);
  }
  return out;
}

void CheckXmp(std::string_view packet) {
  ImageMetadata metadata;
  for (const auto& [key, value] : ReadXmp(packet)) {
    Check(IsUtf8(key) && IsUtf8(value), "a property that is not UTF-8");
    if (IsKey(key)) metadata.emplace_back(key, Replaced(value, true));
  }
  constexpr size_t kBytes = 900;
  for (const bool generated : {false, true}) {
    const std::string written = WriteXmp(metadata, generated);
    Check(ReadXmp(written) == metadata, "properties that change when they are written");
    Check(SaysGenerated(written) == generated, "a packet with the mark, or without it, against the wish");
    Check(WriteXmp(metadata, generated, kBytes).size() <= kBytes, "a packet of more bytes than it may have");
  }
}

void CheckExif(std::string_view block) {
  const ExifTexts texts = ReadExif(block);
  Check(IsUtf8(texts.description) && IsUtf8(texts.software) && IsUtf8(texts.comment), "a field that is not UTF-8");
  constexpr size_t kMaxBytes = 12 << 10;
  if (std::max({texts.description.size(), texts.software.size(), texts.comment.size()}) > kMaxBytes) return;
  const ExifTexts again = ReadExif(WriteExif(texts));
  Check(again.description == texts.description && again.software == texts.software && again.comment == texts.comment,
        "fields that change when they are written");
}

// "KEY=TEXT" of each section, whose name is of no account.
ImageMetadata MetadataOf(std::string_view text) {
  constexpr size_t kMost = 16;
  ImageMetadata metadata;
  for (const Section& section : Sections(text)) {
    const size_t equals = section.content.find('=');
    if (equals == std::string_view::npos || metadata.size() == kMost) continue;
    metadata.emplace_back(section.content.substr(0, equals), section.content.substr(equals + 1));
  }
  return metadata;
}

void CheckFormats(const ImageMetadata& metadata, bool generated) {
  const Image dot{1, 1, {1, 2, 3}};
  const bool right = std::all_of(metadata.begin(), metadata.end(),
                                 [](const auto& entry) { return IsKey(entry.first) && IsUtf8(entry.second); });
  for (const ImageFormat format : {ImageFormat::kPng, ImageFormat::kJpeg, ImageFormat::kWebp}) {
    const auto encoded = EncodeImage(dot, {.format = format, .metadata = metadata, .generated = generated});
    Check(encoded.ok() == right, "texts that are refused, or are not, against the rules");
    if (!encoded.ok()) continue;
    const auto decoded = DecodeImage(*encoded);
    Check(decoded.ok() && decoded->format == format, "what was encoded cannot be decoded");
    ImageMetadata expected = metadata;
    for (auto& [key, value] : expected) value = Replaced(value, format != ImageFormat::kPng);
    Check(decoded->generated == generated, "a mark that comes or goes in", MimeType(format));
    Check(decoded->metadata == expected, "texts that change in", MimeType(format));
  }
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  Input input(data, size);
  switch (input.Byte() % 4) {
    case 'x' % 4:
      CheckXmp(input.rest());
      break;
    case 'e' % 4:
      CheckExif(input.rest());
      break;
    case 'g' % 4:
      CheckFormats(MetadataOf(input.rest()), /*generated=*/true);
      break;
    default:
      CheckFormats(MetadataOf(input.rest()), /*generated=*/false);
  }
  return 0;
}
