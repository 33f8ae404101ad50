#include "pipeline/diffusion/prompt_encoder.h"

#include <cstddef>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace fresco {

std::vector<absl::StatusOr<PromptEncoder::Embedding>> PromptEncoder::Embed(absl::Span<const PromptKey> keys) {
  std::vector<absl::StatusOr<Embedding>> embeddings;
  std::vector<PromptKey> missing;
  std::unordered_set<PromptKey, PromptKeyHash> known;  // to be missing
  for (const PromptKey& key : keys) {
    if (known.contains(key)) {
      cache_.CountHit();
      embeddings.emplace_back(nullptr);
    } else {
      embeddings.emplace_back(cache_.Find(key));
      if (*embeddings.back() == nullptr) known.insert(key);
    }
    if (*embeddings.back() == nullptr) missing.push_back(key);
  }
  if (missing.empty()) return embeddings;
  const std::vector<absl::StatusOr<Embedding>> made = EmbedUncached(missing);
  auto next = made.begin();
  for (size_t i = 0; i < keys.size(); ++i) {
    if (*embeddings[i] != nullptr) continue;
    if (next->ok() && known.erase(keys[i]) > 0) cache_.Insert(keys[i], **next);
    embeddings[i] = *next++;
  }
  return embeddings;
}

std::vector<absl::StatusOr<PromptEncoder::Embedding>> PromptEncoder::EmbedUncached(
    absl::Span<const PromptKey> keys) const {
  std::vector<PromptKey> distinct;
  std::unordered_map<PromptKey, size_t, PromptKeyHash> places;
  for (const PromptKey& key : keys) {
    if (places.emplace(key, distinct.size()).second) distinct.push_back(key);
  }
  std::vector<absl::StatusOr<Embedding>> made;
  for (absl::StatusOr<PromptEmbedding>& embedding : conditioner_.EncodeAll(distinct)) {
    if (embedding.ok()) {
      made.emplace_back(std::make_shared<const PromptEmbedding>(*std::move(embedding)));
    } else {
      made.emplace_back(embedding.status());
    }
  }
  std::vector<absl::StatusOr<Embedding>> embeddings;
  for (const PromptKey& key : keys) embeddings.push_back(made[places.at(key)]);
  return embeddings;
}

std::vector<bool> PromptEncoder::FindUncached(absl::Span<const PromptKey> keys) const {
  std::unordered_set<PromptKey, PromptKeyHash> found;
  std::vector<bool> uncached;
  for (const PromptKey& key : keys) uncached.push_back(!cache_.Contains(key) && found.insert(key).second);
  return uncached;
}

}  // namespace fresco
