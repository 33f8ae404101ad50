#include "pipeline/base/utf8.h"

#include <algorithm>

#include "absl/strings/str_replace.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

bool IsContinuation(char c) {
  return (static_cast<uint8_t>(c) & 0xC0) == 0x80;
}

// Of the character that begins with `lead`; 0 where no character does.
size_t SequenceLength(uint8_t lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead < 0xE0) return 2;
  if (lead >= 0xE0 && lead < 0xF0) return 3;
  if (lead >= 0xF0 && lead < 0xF5) return 4;
  return 0;
}

}  // namespace

char32_t TakeUtf8(std::string_view* text) {
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const uint8_t lead = text->front();
  const size_t length = SequenceLength(lead);
  char32_t character = length == 1 ? lead : lead & (0x7F >> length);
  bool valid = length > 0 && length <= text->size();
  for (size_t i = 1; valid && i < length; ++i) {
    valid = IsContinuation((*text)[i]);
    character = character << 6 | ((*text)[i] & 0x3F);
  }
  valid =
      valid && character >= kSmallest[length] && character <= 0x10FFFF && (character < 0xD800 || character > 0xDFFF);
  text->remove_prefix(valid ? length : 1);
  return valid ? character : kInvalidUtf8;
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    if (TakeUtf8(&text) == kInvalidUtf8) return false;
  }
  return true;
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

std::string_view Utf8Prefix(std::string_view text, size_t bytes) {
  if (text.size() <= bytes) return text;
  while (bytes > 0 && IsContinuation(text[bytes])) --bytes;
  return text.substr(0, bytes);
}

void AppendUtf8(char32_t c, std::string* out) {
  const auto put = [out](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
    return;
  }
  const int tail = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;  // bytes after the first, six bits each
  put((0xFF00 >> (tail + 1) & 0xFF) | c >> (6 * tail));
  for (int i = tail - 1; i >= 0; --i) put(0x80 | (c >> (6 * i) & 0x3F));
}

std::string ReplaceNul(std::string_view text) {
  return absl::StrReplaceAll(ToAbsl(text), {{absl::string_view("\0", 1), ToAbsl(kReplacementCharacter)}});
}

std::string Latin1ToUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) AppendUtf8(static_cast<uint8_t>(c), &out);
  return out;
}

}  // namespace fresco
