// SentencePiece's precompiled normaliser: a double-array trie (darts-clone's layout) from UTF-8 to replacements.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fresco {

// Immutable after construction, so thread-safe.
class Charsmap {
 public:
  // Changes nothing.
  Charsmap() = default;

  // `blob`: the trie's size in bytes (uint32, little-endian), the trie (uint32 units), then the replacements, each
  // ended by a NUL. Empty: changes nothing. INVALID_ARGUMENT: sizes that do not fit, replacements that are not UTF-8 or
  // longer than 256 bytes, a leaf that points out of them.
  static absl::StatusOr<Charsmap> Parse(std::string_view blob);

  // As `tokenizers` does: a grapheme cluster of less than 6 bytes is replaced whole where the trie knows a prefix of
  // it, and else character by character. Valid UTF-8 in and out.
  std::string Normalize(std::string_view text) const;

 private:
  static constexpr size_t kMaxReplacement = 256;

  // The place of the replacement for the shortest key that `text` starts with.
  std::optional<uint32_t> Find(std::string_view text) const;
  std::optional<std::string_view> Replacement(std::string_view text) const;
  // The node that `byte` leads to.
  std::optional<uint32_t> Child(uint32_t node, uint8_t byte) const;
  absl::Status CheckLeaves() const;
  absl::Status CheckLeaf(uint32_t node) const;
  void NormalizeCluster(std::string_view cluster, std::string* out) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace fresco
