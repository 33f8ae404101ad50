#include "pipeline/base/printable.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"

namespace fresco {
namespace {

// Calls `valid` with each character, `invalid` with each byte that belongs to none.
template <typename Valid, typename Invalid>
void ForEachCharacter(std::string_view text, Valid valid, Invalid invalid) {
  while (!text.empty()) {
    const std::string_view before = text;
    const char32_t c = TakeUtf8(&text);
    const std::string_view taken = before.substr(0, before.size() - text.size());
    if (c == kInvalidUtf8) {
      invalid(taken.front());
    } else {
      valid(c, taken);
    }
  }
}

void AppendHex(char byte, std::string* out) {
  absl::StrAppendFormat(out, "\\x%02x", static_cast<uint8_t>(byte));
}

}  // namespace

std::string PrintableName(std::string_view text) {
  constexpr size_t kLongest = 200;
  std::string printable;
  ForEachCharacter(
      Utf8Prefix(text, kLongest),
      [&](char32_t, std::string_view taken) { printable += absl::Utf8SafeCHexEscape(ToAbsl(taken)); },
      [&](char byte) { AppendHex(byte, &printable); });
  if (text.size() > kLongest) printable += "…";
  return printable;
}

std::string Printable(std::string_view text) {
  std::string printable;
  ForEachCharacter(
      text,
      [&](char32_t c, std::string_view taken) {
        if (c < 0x20 || c == 0x7F) {
          AppendHex(taken.front(), &printable);
        } else {
          printable += taken;
        }
      },
      [&](char byte) { AppendHex(byte, &printable); });
  return printable;
}

}  // namespace fresco
