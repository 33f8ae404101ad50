// A set of byte strings, each with a number, searched by prefix: the pieces of a unigram vocabulary, the added tokens
// of a text.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace fresco {

class ByteTrie {
 public:
  // An empty key is not stored: no prefix of a text is empty. A key that is there already gets the new value.
  void Insert(std::string_view key, int32_t value) {
    if (key.empty()) return;
    int64_t node = 0;
    for (const char c : key) {
      const auto [edge, added] = edges_.try_emplace(EdgeKey(node, c), nodes_);
      if (added) ++nodes_;
      node = edge->second;
    }
    values_[node] = value;
  }

  // Calls visit(length, value) for every key that `text` starts with, shortest first.
  template <typename Visit>
  void ForEachPrefix(std::string_view text, Visit visit) const {
    int64_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const auto edge = edges_.find(EdgeKey(node, text[i]));
      if (edge == edges_.end()) return;
      node = edge->second;
      if (const auto value = values_.find(node); value != values_.end()) visit(i + 1, value->second);
    }
  }

 private:
  static int64_t EdgeKey(int64_t node, char c) { return node * 256 + static_cast<uint8_t>(c); }

  absl::flat_hash_map<int64_t, int64_t> edges_;  // (node, byte) → node
  absl::flat_hash_map<int64_t, int32_t> values_;
  int64_t nodes_ = 1;  // 0 is the root
};

}  // namespace fresco
