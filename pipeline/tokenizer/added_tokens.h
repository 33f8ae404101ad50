// Tokens that a text may name outright ("</s>", "<extra_id_3>", "<|endoftext|>"): found before the model sees the text,
// as the `tokenizers` library's AddedVocabulary does.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/tokenizer/byte_trie.h"

namespace fresco {

struct AddedToken {
  std::string content;
  bool single_word = false;  // only where no word character is beside it
  bool lstrip = false;       // takes the whitespace on its left with it
  bool rstrip = false;
  bool normalized = false;  // looked for in the normalised text, in its own normalised form
};

// Immutable after construction, so thread-safe.
class AddedVocabulary {
 public:
  using Normalizer = std::function<std::string(std::string_view)>;
  struct Piece {
    std::optional<int32_t> id;  // an added token's; nothing: `text` is for the model
    std::string text;           // normalised
  };

  using ModelLookup = std::function<std::optional<int32_t>(std::string_view)>;

  // A token that the model has keeps its id there, another gets the next free one, in order, from `model_size` (the
  // number of the model's tokens) on; of two with one content the last one's flags count. `normalizer` must be good for
  // the life of this object.
  AddedVocabulary(const std::vector<AddedToken>& tokens, const ModelLookup& model, int32_t model_size,
                  Normalizer normalizer);

  // Valid UTF-8.
  std::vector<Piece> Split(std::string_view text) const;

  std::optional<int32_t> Id(std::string_view content) const;
  // Empty where no added token has this id.
  std::string_view Content(int32_t id) const;
  int32_t max_id() const { return by_id_.empty() ? -1 : by_id_.rbegin()->first; }

 private:
  int32_t NextId(int32_t model_size) const;
  std::vector<Piece> Find(std::string_view text, const ByteTrie& trie) const;

  Normalizer normalizer_;
  std::map<std::string, int32_t, std::less<>> ids_;
  std::map<int32_t, AddedToken> by_id_;
  ByteTrie raw_, normalized_;
};

}  // namespace fresco
