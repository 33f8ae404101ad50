// Unicode as the `tokenizers` library (0.23) sees it: ICU's data, and where the two differ, its own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fresco {

// Of valid UTF-8.
std::u32string DecodeUtf8(std::string_view text);

// Malformed sequences become U+FFFD.
std::string ReplaceMalformedUtf8(std::string_view text);

bool IsLetter(char32_t c);         // \p{L}
bool IsNumber(char32_t c);         // \p{N}
bool IsWhitespace(char32_t c);     // White_Space, which is \s and Rust's char::is_whitespace
bool IsWordCharacter(char32_t c);  // \w

// NFC by the tables of Unicode 9, which `tokenizers` uses still: marks that are newer are neither reordered nor
// composed. Linear in the text's length.
std::u32string NormalizeNfc(std::u32string_view text);

// CLIP's normaliser: NFC, every run of whitespace one space, lower case per code point (a final sigma stays σ). Valid
// UTF-8 in and out.
std::string NormalizeForClip(std::string_view text);

// The lengths in bytes of the extended grapheme clusters of valid UTF-8, in order.
std::vector<int> GraphemeLengths(std::string_view text);

}  // namespace fresco
