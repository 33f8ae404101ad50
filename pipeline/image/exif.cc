#include "pipeline/image/exif.h"

#include <cstdint>
#include <optional>
#include <vector>

#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"

namespace fresco {
namespace {

constexpr uint16_t kImageDescription = 0x010E;
constexpr uint16_t kSoftware = 0x0131;
constexpr uint16_t kExifDirectory = 0x8769;  // a pointer to the directory that holds UserComment
constexpr uint16_t kUserComment = 0x9286;
constexpr uint16_t kByte = 1, kAscii = 2, kLong = 4, kUndefined = 7;  // TIFF's types
constexpr size_t kEntryBytes = 12;
constexpr size_t kMaxTextBytes = 12 << 10;            // all three fit into JPEG's segment
constexpr std::string_view kUnicode{"UNICODE\0", 8};  // the code that begins a UserComment in UTF-16
constexpr std::string_view kAsciiCode{"ASCII\0\0\0", 8};

void AppendBigEndian(uint32_t value, int bytes, std::string* out) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out->push_back(static_cast<char>(value >> shift & 0xFF));
}

std::string Utf16BigEndian(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    char32_t c = TakeUtf8(&text);
    if (c == kInvalidUtf8) c = 0xFFFD;
    if (c >= 0x10000) {
      AppendBigEndian(0xD800 + ((c - 0x10000) >> 10), 2, &out);
      c = 0xDC00 + ((c - 0x10000) & 0x3FF);
    }
    AppendBigEndian(c, 2, &out);
  }
  return out;
}

struct Entry {
  uint16_t tag;
  uint16_t type;
  std::string value;  // of bytes, or the four of a kLong
};

// A directory at `offset` of the block: its entries, then the values that do not fit into one.
std::string WriteDirectory(const std::vector<Entry>& entries, size_t offset) {
  std::string out, values;
  const size_t values_offset = offset + 2 + entries.size() * kEntryBytes + 4;
  AppendBigEndian(entries.size(), 2, &out);
  for (const Entry& entry : entries) {
    AppendBigEndian(entry.tag, 2, &out);
    AppendBigEndian(entry.type, 2, &out);
    AppendBigEndian(entry.type == kLong ? 1 : entry.value.size(), 4, &out);
    if (entry.value.size() <= 4) {
      out += entry.value + std::string(4 - entry.value.size(), '\0');
      continue;
    }
    AppendBigEndian(values_offset + values.size(), 4, &out);
    values += entry.value;
    if (values.size() % 2 == 1) values.push_back('\0');  // values begin at even offsets
  }
  AppendBigEndian(0, 4, &out);  // no further directory
  return out + values;
}

std::string AsciiValue(std::string_view text) {
  const std::string value = ReplaceNul(text);
  return StrCat(Utf8Prefix(value, kMaxTextBytes), std::string_view("\0", 1));
}

// Reads numbers of either byte order; nothing where the block ends too early.
class TiffReader {
 public:
  explicit TiffReader(std::string_view block) : block_(block), big_endian_(block.starts_with("MM")) {}

  std::optional<uint32_t> Number(size_t offset, size_t bytes) const {
    if (offset > block_.size() || block_.size() - offset < bytes) return std::nullopt;
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) {
      value = value << 8 | static_cast<uint8_t>(block_[offset + (big_endian_ ? i : bytes - 1 - i)]);
    }
    return value;
  }

  // The entry of `tag` in the directory at `offset`: where it begins.
  std::optional<size_t> Find(std::optional<uint32_t> offset, uint16_t tag) const {
    const std::optional<uint32_t> count = offset ? Number(*offset, 2) : std::nullopt;
    for (size_t i = 0; count && i < *count; ++i) {
      const size_t entry = size_t{*offset} + 2 + i * kEntryBytes;
      const std::optional<uint32_t> found = Number(entry, 2);
      if (!found) break;
      if (*found == tag) return entry;
    }
    return std::nullopt;
  }

  // The bytes of an entry of a type of single bytes.
  std::string_view Bytes(std::optional<size_t> entry) const {
    if (!entry) return "";
    const std::optional<uint32_t> type = Number(*entry + 2, 2), count = Number(*entry + 4, 4);
    if (!type || !count || (*type != kByte && *type != kAscii && *type != kUndefined)) return "";
    const std::optional<uint32_t> at = *count <= 4 ? *entry + 8 : Number(*entry + 8, 4);
    if (!at || *at > block_.size() || block_.size() - *at < *count) return "";
    return block_.substr(*at, *count);
  }

  bool big_endian() const { return big_endian_; }

 private:
  const std::string_view block_;
  const bool big_endian_;
};

// Up to the NUL. Cameras write Latin-1 as often as UTF-8.
std::string DecodeAscii(std::string_view bytes) {
  bytes = bytes.substr(0, bytes.find('\0'));
  return IsUtf8(bytes) ? std::string(bytes) : Latin1ToUtf8(bytes);
}

std::string DecodeUtf16(std::string_view bytes, bool big_endian) {
  const auto unit = [&](size_t i) {
    const uint8_t first = bytes[i], second = bytes[i + 1];
    return static_cast<char32_t>(big_endian ? first << 8 | second : second << 8 | first);
  };
  std::string out;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    char32_t c = unit(i);
    if (c >= 0xD800 && c < 0xDC00 && i + 3 < bytes.size() && unit(i + 2) >= 0xDC00 && unit(i + 2) < 0xE000) {
      c = 0x10000 + ((c - 0xD800) << 10) + (unit(i + 2) - 0xDC00);
      i += 2;
    }
    AppendUtf8(c >= 0xD800 && c < 0xE000 ? 0xFFFD : c, &out);
  }
  return out;
}

std::string DecodeComment(std::string_view bytes, bool big_endian) {
  if (bytes.starts_with(kUnicode)) return DecodeUtf16(bytes.substr(kUnicode.size()), big_endian);
  if (bytes.starts_with(kAsciiCode)) return DecodeAscii(bytes.substr(kAsciiCode.size()));
  return "";
}

}  // namespace

std::string WriteExif(const ExifTexts& texts) {
  std::vector<Entry> entries;  // by rising tag, as TIFF asks
  if (!texts.description.empty()) entries.push_back({kImageDescription, kAscii, AsciiValue(texts.description)});
  if (!texts.software.empty()) entries.push_back({kSoftware, kAscii, AsciiValue(texts.software)});
  if (entries.empty() && texts.comment.empty()) return "";

  std::string block("MM\0*", 4);
  AppendBigEndian(8, 4, &block);
  if (texts.comment.empty()) return block + WriteDirectory(entries, block.size());
  entries.push_back({kExifDirectory, kLong, std::string(4, '\0')});
  const size_t exif_offset = block.size() + WriteDirectory(entries, block.size()).size();
  entries.back().value.clear();
  AppendBigEndian(exif_offset, 4, &entries.back().value);
  block += WriteDirectory(entries, block.size());
  const std::string comment = std::string(kUnicode) + Utf16BigEndian(Utf8Prefix(texts.comment, kMaxTextBytes));
  return block + WriteDirectory({{kUserComment, kUndefined, comment}}, block.size());
}

ExifTexts ReadExif(std::string_view block) {
  if (block.starts_with(std::string_view("Exif\0\0", 6))) block.remove_prefix(6);
  if (!block.starts_with(std::string_view("MM\0*", 4)) && !block.starts_with(std::string_view("II*\0", 4))) return {};
  const TiffReader reader(block);
  const std::optional<uint32_t> main = reader.Number(4, 4);
  ExifTexts texts;
  texts.description = DecodeAscii(reader.Bytes(reader.Find(main, kImageDescription)));
  texts.software = DecodeAscii(reader.Bytes(reader.Find(main, kSoftware)));
  if (const std::optional<size_t> pointer = reader.Find(main, kExifDirectory)) {
    const std::optional<uint32_t> exif = reader.Number(*pointer + 8, 4);
    texts.comment = DecodeComment(reader.Bytes(reader.Find(exif, kUserComment)), reader.big_endian());
  }
  return texts;
}

}  // namespace fresco
