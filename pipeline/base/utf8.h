// Reading UTF-8 one character at a time, as strictly as Unicode asks (no overlong forms, no surrogates).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fresco {

inline constexpr char32_t kInvalidUtf8 = 0xFFFFFFFF;
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// The character at the front of `text` (not empty), which is then taken off it. kInvalidUtf8 takes off one byte.
char32_t TakeUtf8(std::string_view* text);

bool IsUtf8(std::string_view text);
bool IsAscii(std::string_view text);

// The longest prefix of at most `bytes` bytes that ends between characters.
std::string_view Utf8Prefix(std::string_view text, size_t bytes);

void AppendUtf8(char32_t character, std::string* out);

// With U+FFFD in the place of each NUL.
std::string ReplaceNul(std::string_view text);

// Every byte is a character of ISO 8859-1, which can not fail.
std::string Latin1ToUtf8(std::string_view text);

}  // namespace fresco
