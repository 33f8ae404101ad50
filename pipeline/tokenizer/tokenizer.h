// Text to token ids, exactly as transformers 5.23.0 does for CLIPTokenizer and T5Tokenizer. The tests hold it to that,
// string by string.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fresco {

struct TokenIds {
  std::vector<int32_t> ids;    // [max_length]: content between the tokenizer's special tokens, then padding
  int untruncated_length = 0;  // of the whole text with its special tokens, without padding
  std::string truncated_text;  // what was cut, decoded from its tokens (so as normalised); empty where nothing was

  bool truncated() const { return untruncated_length > static_cast<int>(ids.size()); }
};

// Immutable after loading, so thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // As `tokenizer(text, padding="max_length", max_length=max_length, truncation=True)`. INVALID_ARGUMENT: `text` is not
  // UTF-8 or is longer than 16 MiB, or `max_length` is less than the tokenizer's own special tokens (CLIP 2, T5 1) or
  // over a million. Time grows about linearly with the text's length, whatever the text.
  virtual absl::StatusOr<TokenIds> Encode(std::string_view text, int max_length) const = 0;

  // model_max_length of tokenizer_config.json; INT_MAX where it names none.
  virtual int model_max_length() const = 0;
  // One more than the largest id that Encode can give: an embedding table must have at least as many rows.
  virtual int vocab_size() const = 0;
  virtual int pad_id() const = 0;
  virtual int eos_id() const = 0;
};

// Both read a folder of a diffusers pipeline (`tokenizer/`, `tokenizer_3/` …):
//   - `tokenizer.json` where it exists (transformers prefers it): its vocabulary, merges and charsmap; what the class
//   fixes
//     (CLIP's normaliser and pattern, T5's unknown id 2, the special tokens around a text) is fixed here too;
//   - else `vocab.json` + `merges.txt` (CLIP), `spiece.model` (T5);
//   - `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` where they exist.
// NOT_FOUND names the missing files. INVALID_ARGUMENT names the file and what is wrong in it: files are untrusted.
// Settings that change ids and that no model of this architecture uses (padding or truncation on the left) are refused,
// not ignored.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadClipTokenizer(const std::filesystem::path& folder);
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadT5Tokenizer(const std::filesystem::path& folder);

}  // namespace fresco
