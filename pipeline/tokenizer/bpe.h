// Byte-pair encoding of one word, by ranked merges.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"

namespace fresco {

using Vocabulary = absl::flat_hash_map<std::string, int32_t>;
using Merges = std::vector<std::pair<std::string, std::string>>;

// Immutable after construction, so thread-safe.
class BpeModel {
 public:
  // The alphabet is GPT-2's, a printable character for each byte; "</w>" ends a word. INVALID_ARGUMENT: a merge of or
  // into something that is not in the vocabulary; bytes that are not in it, with no `unknown` for them.
  static absl::StatusOr<BpeModel> Create(Vocabulary vocabulary, const Merges& merges, const std::string& unknown);

  // Appends the ids of `word`, which is bytes. n log n in its length.
  void EncodeWord(std::string_view word, std::vector<int32_t>* ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    int32_t rank;
    int32_t id;
  };

  explicit BpeModel(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  absl::Status FillAlphabet(const std::string& unknown);
  absl::Status AddMerges(const Merges& merges);
  const Merge* FindMerge(int32_t left, int32_t right) const;
  friend class WordMerger;

  Vocabulary vocabulary_;
  int32_t first_ids_[256] = {};  // of a byte within a word
  int32_t last_ids_[256] = {};   // of a byte that ends it
  absl::flat_hash_map<std::pair<int32_t, int32_t>, Merge> merges_;
};

// The character that stands for `byte` in the files of a byte-level tokenizer, in UTF-8.
std::string ByteLevelCharacter(uint8_t byte);
// The bytes that a token of such a file stands for; a character outside the alphabet stands for itself.
std::string ByteLevelDecode(std::string_view token);

}  // namespace fresco
