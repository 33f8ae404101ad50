// The unigram model: of all ways to cut a word into pieces, the one with the highest sum of scores.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "pipeline/tokenizer/byte_trie.h"

namespace fresco {

struct ScoredPiece {
  std::string text;
  double score = 0;
};

// Immutable after construction, so thread-safe.
class UnigramModel {
 public:
  // A piece's id is its place. INVALID_ARGUMENT: no piece `unknown_id`, a score that is not finite, a piece of over
  // 1024 bytes.
  static absl::StatusOr<UnigramModel> Create(std::vector<ScoredPiece> pieces, int32_t unknown_id);

  // Appends the ids of `word`, which is valid UTF-8. A character that no piece covers costs 10 more than the worst
  // piece and is unknown; neighbours that are unknown are one. Linear in the word's length (times the longest piece).
  void EncodeWord(std::string_view word, std::vector<int32_t>* ids) const;

  std::optional<int32_t> Id(std::string_view piece) const;
  const std::vector<ScoredPiece>& pieces() const { return pieces_; }

 private:
  // The best way to reach a place in the word: its last piece.
  struct Arrival {
    double score = 0;
    int begin = -1;  // -1: not reached
    int32_t id = 0;
  };

  UnigramModel(std::vector<ScoredPiece> pieces, int32_t unknown_id);
  std::vector<Arrival> BestArrivals(std::string_view word) const;

  std::vector<ScoredPiece> pieces_;
  int32_t unknown_id_;
  double unknown_score_ = 0;
  absl::flat_hash_map<std::string, int32_t> ids_;
  ByteTrie trie_;
};

}  // namespace fresco
