// Encoded prompts, kept for the next image that asks for the same text.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>

#include "pipeline/base/mutex.h"

namespace fresco {

// Everything that one side (positive or negative) of a prompt's embedding depends on, for one model.
struct PromptKey {
  std::string clip_l;  // the text that each encoder gets
  std::string clip_g;
  std::string t5;
  int max_sequence_length = 256;  // T5 tokens
  int clip_skip = 0;
  bool alone = false;  // is encoded in no forward with others: its bits are its own on every device

  bool operator==(const PromptKey&) const = default;
};

struct PromptKeyHash {
  size_t operator()(const PromptKey& key) const;
};

// Tokens of a text, its special tokens counted: how many there are, and how many of them the encoder takes.
struct TokenCount {
  int total = 0;
  int used = 0;
  bool truncated() const { return used < total; }
};

// Immutable once made; shared between the cache and the jobs that use it.
struct PromptEmbedding {
  at::Tensor text;    // [1, T, J]
  at::Tensor pooled;  // [1, P]
  TokenCount clip_l;
  TokenCount clip_g;
  TokenCount t5;

  int64_t bytes() const { return static_cast<int64_t>(text.nbytes() + pooled.nbytes()); }
};

// The most recently used embeddings, of at most `max_bytes` together (tensors and texts). Thread-safe.
class PromptCache {
 public:
  explicit PromptCache(int64_t max_bytes) : max_bytes_(max_bytes) {}
  PromptCache(const PromptCache&) = delete;
  PromptCache& operator=(const PromptCache&) = delete;

  // Null where it is not there; counts a hit or a miss.
  std::shared_ptr<const PromptEmbedding> Find(const PromptKey& key);

  // Whether it is there; counts nothing.
  bool Contains(const PromptKey& key) const;
  // For a text that is being encoded for another image already.
  void CountHit();

  // Lets the least recently used go until it fits; what is larger than the whole cache is not kept.
  void Insert(const PromptKey& key, std::shared_ptr<const PromptEmbedding> embedding);

  struct Counts {
    int64_t hits = 0;
    int64_t misses = 0;
    int64_t bytes = 0;  // held now
  };
  Counts counts() const;

 private:
  struct Entry {
    PromptKey key;
    std::shared_ptr<const PromptEmbedding> embedding;
    int64_t bytes = 0;
  };
  using Entries = std::list<Entry>;  // the most recently used first

  void Erase(Entries::iterator entry) FRESCO_REQUIRES(mutex_);

  const int64_t max_bytes_;

  mutable Mutex mutex_;
  Entries entries_ FRESCO_GUARDED_BY(mutex_);
  std::unordered_map<PromptKey, Entries::iterator, PromptKeyHash> index_ FRESCO_GUARDED_BY(mutex_);
  Counts counts_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
