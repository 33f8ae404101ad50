#include "tests/fuzz/tokenizer_checks.h"

#include <algorithm>
#include <array>
#include <vector>

#include "pipeline/base/utf8.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

constexpr std::string_view kPrompt =
    "A red fox's ﬁ\u0301 <|endoftext|> </s>\u00a0１２３ 東京 👩‍🚀 e\u0301";
constexpr std::array<std::string_view, 7> kFiles = {"tokenizer.json",         "vocab.json",        "merges.txt",
                                                    "tokenizer_config.json",  "added_tokens.json", "spiece.model",
                                                    "special_tokens_map.json"};

void CheckIds(const Tokenizer& tokenizer, const TokenIds& encoded, int length) {
  Check(encoded.ids.size() == static_cast<size_t>(length), "another number of ids than was asked for");
  const int32_t vocabulary = tokenizer.vocab_size();
  const auto known = [&](int32_t id) { return id >= 0 && id < vocabulary; };
  Check(std::all_of(encoded.ids.begin(), encoded.ids.end(), known), "an id beyond the vocabulary");
  Check(known(tokenizer.pad_id()) && known(tokenizer.eos_id()), "a special token beyond the vocabulary");
  Check(encoded.untruncated_length >= 1, "a text without its special tokens");
  Check(IsUtf8(encoded.truncated_text), "what was cut off is not UTF-8");
  Check(encoded.truncated() || encoded.truncated_text.empty(), "something was cut off a text that fits");
}

}  // namespace

void CheckEncoding(const Tokenizer& tokenizer, std::string_view text) {
  constexpr int kShort = 16, kLong = 77;
  const auto cut = tokenizer.Encode(text, kShort), whole = tokenizer.Encode(text, kLong);
  Check(cut.ok() == IsUtf8(text) && whole.ok() == cut.ok(), "a text that is UTF-8 is refused, or another is not");
  if (!cut.ok()) return Check(absl::IsInvalidArgument(cut.status()), "refused as something else");
  CheckIds(tokenizer, *cut, kShort);
  CheckIds(tokenizer, *whole, kLong);
  Check(cut->untruncated_length == whole->untruncated_length, "a text's length depends on where it is cut");
  // The last of the short one's ids is the end, or padding.
  Check(std::equal(cut->ids.begin(), cut->ids.end() - 1, whole->ids.begin()),
        "the beginning of a text depends on where it is cut");
}

void CheckTokenizerFiles(LoadTokenizer load, std::string_view input) {
  static const ScratchFolder folder;
  const std::vector<Section> sections = Sections(input);
  for (const Section& section : sections) {
    if (std::find(kFiles.begin(), kFiles.end(), section.name) != kFiles.end()) {
      folder.Write(section.name, section.content);
    }
  }
  const auto tokenizer = load(folder.path());
  if (tokenizer.ok()) {
    Check((*tokenizer)->model_max_length() > 0, "a tokenizer for texts of no length");
    CheckEncoding(**tokenizer, kPrompt);
    CheckEncoding(**tokenizer, ContentOf(sections, "prompt"));
  } else {
    CheckError(tokenizer.status(), folder.path());
  }
  folder.Clear();
}

}  // namespace fresco::fuzz
