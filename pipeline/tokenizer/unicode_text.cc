#include "pipeline/tokenizer/unicode_text.h"

#include <unicode/brkiter.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>

#include "pipeline/base/utf8.h"

namespace fresco {
namespace {

struct Range {
  char32_t first, last;
};

// Letters and numbers of Unicode 15.1 and 16: `tokenizers` knows them, Debian 12's ICU does not, Ubuntu 24.04's does in
// part.
constexpr Range kNewLetters[] = {{0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
                                 {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389},
                                 {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
                                 {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0}, {0x13460, 0x143FA},
                                 {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
                                 {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D}};
constexpr Range kNewNumbers[] = {{0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139},
                                 {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E5F1, 0x1E5FA}};

// Combining marks of Unicode 16 and 17 that can join a short cluster.
constexpr Range kNewExtend[] = {{0x897, 0x897}, {0x1ACF, 0x1ADD}, {0x1AE0, 0x1AEB}};

// Capitals of Unicode 16 and 17: `first` to `last` become `lower` and on; `step` 2 where capitals and small letters
// alternate.
struct LowerRange {
  char32_t first, last, lower;
  int step;
};
constexpr LowerRange kNewLower[] = {{0x1C89, 0x1C89, 0x1C8A, 1},    {0xA7CB, 0xA7CB, 0x264, 1},
                                    {0xA7CC, 0xA7CE, 0xA7CD, 2},    {0xA7D2, 0xA7D4, 0xA7D3, 2},
                                    {0xA7DA, 0xA7DA, 0xA7DB, 1},    {0xA7DC, 0xA7DC, 0x19B, 1},
                                    {0x10D50, 0x10D65, 0x10D70, 1}, {0x16EA0, 0x16EB8, 0x16EBB, 1}};

template <size_t kSize>
bool InRanges(const Range (&ranges)[kSize], char32_t c) {
  return std::any_of(std::begin(ranges), std::end(ranges), [c](Range r) { return r.first <= c && c <= r.last; });
}

// Not in Unicode 15.0, the oldest ICU's that Fresco is built with: the tables above speak for it, whatever ICU knows.
bool IsNewer(char32_t c) {
  UVersionInfo age;
  u_charAge(static_cast<UChar32>(c), age);
  return age[0] == 0 || age[0] > 15 || (age[0] == 15 && age[1] > 0);
}

bool HasCategory(char32_t c, uint32_t mask) {
  return (U_GET_GC_MASK(static_cast<UChar32>(c)) & mask) != 0;
}

char32_t LowerCase(char32_t c) {
  for (const LowerRange& r : kNewLower) {
    if (r.first <= c && c <= r.last && (c - r.first) % r.step == 0) return r.lower + (c - r.first);
  }
  return static_cast<char32_t>(u_tolower(static_cast<UChar32>(c)));
}

// ICU fails here only where its data is missing, and there is no tokenising without it.
void DieIfFailed(UErrorCode status) {
  if (U_SUCCESS(status)) return;
  std::fprintf(stderr, "ICU does not work on this machine: %s\n", u_errorName(status));
  std::abort();
}

class Nfc {
 public:
  Nfc() : assigned_(u"[:age=9.0:]", status_), nfc_(*icu::Normalizer2::getNFCInstance(status_), assigned_) {
    DieIfFailed(status_);
    assigned_.freeze();
  }

  bool IsMark(char32_t c) const { return CombiningClass(c) != 0 || ExpandsToMarks(c); }
  int CombiningClass(char32_t c) const { return nfc_.getCombiningClass(static_cast<UChar32>(c)); }
  void AppendDecomposed(char32_t c, std::u32string* out) const;
  icu::UnicodeString Normalize(const icu::UnicodeString& text) const;

 private:
  // U+0F73, U+0F75 and U+0F81: of class 0, made of two marks.
  static bool ExpandsToMarks(char32_t c) { return c == 0x0F73 || c == 0x0F75 || c == 0x0F81; }

  UErrorCode status_ = U_ZERO_ERROR;
  icu::UnicodeSet assigned_;
  icu::FilteredNormalizer2 nfc_;
};

void Nfc::AppendDecomposed(char32_t c, std::u32string* out) const {
  icu::UnicodeString parts;
  if (!nfc_.getDecomposition(static_cast<UChar32>(c), parts)) {
    out->push_back(c);
    return;
  }
  for (int32_t i = 0; i < parts.length(); i = parts.moveIndex32(i, 1)) out->push_back(parts.char32At(i));
}

icu::UnicodeString Nfc::Normalize(const icu::UnicodeString& text) const {
  UErrorCode status = U_ZERO_ERROR;
  icu::UnicodeString result;
  nfc_.normalize(text, result, status);
  DieIfFailed(status);
  return result;
}

const Nfc& SharedNfc() {
  static const Nfc* const nfc = new Nfc;  // immutable, never destroyed
  return *nfc;
}

icu::UnicodeString ToIcu(std::u32string_view text) {
  return icu::UnicodeString::fromUTF32(reinterpret_cast<const UChar32*>(text.data()),
                                       static_cast<int32_t>(text.size()));
}

// ICU sorts a run of marks by insertion, which is quadratic in a run of a hundred thousand. Sorting such a run here
// first is a canonical equivalence, so NFC of the result is NFC of the text.
std::u32string SortLongMarkRuns(const Nfc& nfc, std::u32string_view text) {
  constexpr size_t kLong = 32;
  std::u32string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && text[end] >= 0x300 && nfc.IsMark(text[end])) ++end;
    if (end - i > kLong) {
      std::u32string run;
      for (; i < end; ++i) nfc.AppendDecomposed(text[i], &run);
      std::stable_sort(run.begin(), run.end(),
                       [&](char32_t a, char32_t b) { return nfc.CombiningClass(a) < nfc.CombiningClass(b); });
      out += run;
    } else {
      end = std::max(end, i + 1);
      out += text.substr(i, end - i);
      i = end;
    }
  }
  return out;
}

bool NeedsClusters(std::u32string_view text) {
  // Below the combining marks, CR LF is the only cluster of more than one character.
  return std::any_of(text.begin(), text.end(), [](char32_t c) { return c >= 0x300 || c == U'\r'; });
}

int Utf8Length(char32_t c) {
  return U8_LENGTH(static_cast<UChar32>(c));
}

std::vector<int> LengthsPerCharacter(std::u32string_view text) {
  std::vector<int> lengths;
  lengths.reserve(text.size());
  for (const char32_t c : text) lengths.push_back(Utf8Length(c));
  return lengths;
}

}  // namespace

std::u32string DecodeUtf8(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  const auto* s = reinterpret_cast<const uint8_t*>(text.data());
  for (size_t i = 0; i < text.size();) {
    UChar32 c;
    U8_NEXT_OR_FFFD(s, i, text.size(), c);
    out.push_back(static_cast<char32_t>(c));
  }
  return out;
}

std::string ReplaceMalformedUtf8(std::string_view text) {
  std::string out;
  for (const char32_t c : DecodeUtf8(text)) AppendUtf8(c, &out);
  return out;
}

bool IsLetter(char32_t c) {
  return IsNewer(c) ? InRanges(kNewLetters, c) : HasCategory(c, U_GC_L_MASK);
}

bool IsNumber(char32_t c) {
  return IsNewer(c) ? InRanges(kNewNumbers, c) : HasCategory(c, U_GC_N_MASK);
}

bool IsWhitespace(char32_t c) {
  return u_isUWhiteSpace(static_cast<UChar32>(c));
}

bool IsWordCharacter(char32_t c) {
  return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_ALPHABETIC) ||
         HasCategory(c, U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK) ||
         u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_JOIN_CONTROL);
}

std::u32string NormalizeNfc(std::u32string_view text) {
  const Nfc& nfc = SharedNfc();
  if (std::all_of(text.begin(), text.end(), [](char32_t c) { return c < 0x300; })) return std::u32string(text);
  const icu::UnicodeString normal = nfc.Normalize(ToIcu(SortLongMarkRuns(nfc, text)));
  std::u32string out;
  out.reserve(normal.length());
  for (int32_t i = 0; i < normal.length(); i = normal.moveIndex32(i, 1)) out.push_back(normal.char32At(i));
  return out;
}

std::string NormalizeForClip(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool in_space = false;
  for (const char32_t c : NormalizeNfc(DecodeUtf8(text))) {
    const bool space = IsWhitespace(c);
    if (space && !in_space) out.push_back(' ');
    in_space = space;
    if (space) continue;
    AppendUtf8(LowerCase(c), &out);
    if (c == 0x130) AppendUtf8(0x307, &out);  // the one capital whose full mapping has two code points: İ
  }
  return out;
}

std::vector<int> GraphemeLengths(std::string_view text) {
  const std::u32string characters = DecodeUtf8(text);
  if (!NeedsClusters(characters)) return LengthsPerCharacter(characters);
  UErrorCode status = U_ZERO_ERROR;
  const std::unique_ptr<icu::BreakIterator> breaks(
      icu::BreakIterator::createCharacterInstance(icu::Locale::getRoot(), status));
  DieIfFailed(status);
  std::u32string known = characters;
  std::replace_if(
      known.begin(), known.end(), [](char32_t c) { return InRanges(kNewExtend, c); }, U'\u0300');
  const icu::UnicodeString utf16 = ToIcu(known);
  breaks->setText(utf16);
  std::vector<int> lengths;
  int32_t at = breaks->first();
  size_t next = 0;
  for (int32_t end = breaks->next(); end != icu::BreakIterator::DONE; end = breaks->next()) {
    int length = 0;
    for (; at < end; ++next) {
      length += Utf8Length(characters[next]);
      at += U16_LENGTH(static_cast<UChar32>(characters[next]));
    }
    lengths.push_back(length);
  }
  return lengths;
}

}  // namespace fresco
