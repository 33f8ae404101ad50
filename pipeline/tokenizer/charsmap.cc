#include "pipeline/tokenizer/charsmap.h"

#include <algorithm>
#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"
#include "pipeline/tokenizer/unicode_text.h"

namespace fresco {
namespace {

// A unit of darts-clone: a node's label and the way to its children, or a leaf's value.
bool HasLeaf(uint32_t unit) {
  return (unit >> 8) & 1;
}
uint32_t Value(uint32_t unit) {
  return unit & 0x7FFFFFFF;
}
uint32_t Label(uint32_t unit) {
  return unit & 0x800000FF;
}
uint32_t Offset(uint32_t unit) {
  return (unit >> 10) << ((unit & 0x200) >> 6);
}

uint32_t ReadUint32(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

absl::Status Invalid(std::string_view reason) {
  return absl::InvalidArgumentError(StrCat("precompiled_charsmap: ", reason));
}

}  // namespace

absl::StatusOr<Charsmap> Charsmap::Parse(std::string_view blob) {
  constexpr size_t kMaxBytes = 8 << 20;  // real ones have 0.3 MB; CheckLeaves looks at every byte of every node
  Charsmap map;
  if (blob.empty()) return map;
  if (blob.size() > kMaxBytes) return Invalid(StrCat(blob.size(), " bytes are more than ", kMaxBytes));
  if (blob.size() < 4) return Invalid("ends within its first number");
  const uint32_t trie_bytes = ReadUint32(blob, 0);
  if (trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes > blob.size() - 4) {
    return Invalid(StrCat("a trie of ", trie_bytes, " bytes does not fit ", blob.size() - 4));
  }
  for (uint32_t i = 0; i < trie_bytes; i += 4) map.units_.push_back(ReadUint32(blob, 4 + i));
  map.replacements_ = std::string(blob.substr(4 + trie_bytes));
  if (!IsUtf8(map.replacements_)) return Invalid("its replacements are not UTF-8");
  FRESCO_RETURN_IF_ERROR(map.CheckLeaves());
  return map;
}

// A node is named here by the place that its children are counted from.
std::optional<uint32_t> Charsmap::Child(uint32_t node, uint8_t byte) const {
  const uint32_t place = node ^ byte;
  if (place >= units_.size() || Label(units_[place]) != byte) return std::nullopt;
  return place ^ Offset(units_[place]);
}

// Walks every path once, so that a lookup needs no checks of what it finds.
absl::Status Charsmap::CheckLeaves() const {
  std::vector<uint32_t> to_visit = {Offset(units_[0])};
  std::vector<bool> seen(units_.size());  // of places: cycles end here
  while (!to_visit.empty()) {
    const uint32_t node = to_visit.back();
    to_visit.pop_back();
    for (int byte = 1; byte < 256; ++byte) {
      const auto child = Child(node, static_cast<uint8_t>(byte));
      const uint32_t place = node ^ static_cast<uint32_t>(byte);
      if (!child || seen[place]) continue;
      seen[place] = true;
      if (HasLeaf(units_[place])) FRESCO_RETURN_IF_ERROR(CheckLeaf(*child));
      to_visit.push_back(*child);
    }
  }
  return absl::OkStatus();
}

absl::Status Charsmap::CheckLeaf(uint32_t node) const {
  if (node >= units_.size()) return Invalid(StrCat("a leaf at ", node, " of ", units_.size(), " units"));
  const uint32_t begin = Value(units_[node]);
  if (begin >= replacements_.size()) {
    return Invalid(StrCat("a replacement at ", begin, " of ", replacements_.size(), " bytes"));
  }
  const std::string_view text = std::string_view(replacements_).substr(begin);
  if ((static_cast<uint8_t>(text[0]) & 0xC0) == 0x80) return Invalid("a replacement begins within a character");
  if (std::min(text.find('\0'), text.size()) > kMaxReplacement)
    return Invalid("a replacement is longer than 256 bytes");
  return absl::OkStatus();
}

std::optional<uint32_t> Charsmap::Find(std::string_view text) const {
  uint32_t node = Offset(units_[0]);
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte == 0) return std::nullopt;
    const auto child = Child(node, byte);
    if (!child) return std::nullopt;
    if (HasLeaf(units_[node ^ byte])) return Value(units_[*child]);
    node = *child;
  }
  return std::nullopt;
}

std::optional<std::string_view> Charsmap::Replacement(std::string_view text) const {
  const auto begin = Find(text);
  if (!begin) return std::nullopt;
  const std::string_view rest = std::string_view(replacements_).substr(*begin);
  return rest.substr(0, rest.find('\0'));
}

void Charsmap::NormalizeCluster(std::string_view cluster, std::string* out) const {
  constexpr size_t kShortCluster = 6;
  if (cluster.size() < kShortCluster) {
    if (const auto replacement = Replacement(cluster)) {
      out->append(*replacement);
      return;
    }
  }
  for (size_t i = 0; i < cluster.size();) {
    size_t end = i + 1;
    while (end < cluster.size() && (static_cast<uint8_t>(cluster[end]) & 0xC0) == 0x80) ++end;
    const std::string_view character = cluster.substr(i, end - i);
    out->append(Replacement(character).value_or(character));
    i = end;
  }
}

std::string Charsmap::Normalize(std::string_view text) const {
  if (units_.empty()) return std::string(text);
  std::string out;
  out.reserve(text.size());
  size_t at = 0;
  for (const int length : GraphemeLengths(text)) {
    NormalizeCluster(text.substr(at, length), &out);
    at += length;
  }
  return out;
}

}  // namespace fresco
