// The embeddings of texts: from the cache or, all that are not there together, from the encoders.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pipeline/diffusion/prompt_cache.h"
#include "pipeline/diffusion/text_conditioning.h"

namespace fresco {

class PromptEncoder {
 public:
  using Embedding = std::shared_ptr<const PromptEmbedding>;

  // `conditioner` outlives it; its embeddings are kept in at most `cache_bytes`.
  PromptEncoder(const TextConditioner* conditioner, int64_t cache_bytes)
      : conditioner_(*conditioner), cache_(cache_bytes) {}

  // One for each key, in order; equal keys are encoded once. Errors are TextConditioner::Encode's, and each text's own.
  // Throws libtorch's exceptions; call it under InferenceMode, on the device's compute thread.
  std::vector<absl::StatusOr<Embedding>> Embed(absl::Span<const PromptKey> keys);
  // The same past the cache, which neither gains by it nor counts it.
  std::vector<absl::StatusOr<Embedding>> EmbedUncached(absl::Span<const PromptKey> keys) const;

  // Which of these Embed would have to encode: of equal ones the first. Thread-safe.
  std::vector<bool> FindUncached(absl::Span<const PromptKey> keys) const;
  // Thread-safe.
  PromptCache::Counts counts() const { return cache_.counts(); }

 private:
  const TextConditioner& conditioner_;
  PromptCache cache_;  // thread-safe
};

}  // namespace fresco
