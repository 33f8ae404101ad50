#include "pipeline/diffusion/prompt_cache.h"

#include <utility>

#include "absl/hash/hash.h"

namespace fresco {

size_t PromptKeyHash::operator()(const PromptKey& key) const {
  return absl::HashOf(key.clip_l, key.clip_g, key.t5, key.max_sequence_length, key.clip_skip, key.alone);
}

std::shared_ptr<const PromptEmbedding> PromptCache::Find(const PromptKey& key) {
  MutexLock lock(&mutex_);
  const auto found = index_.find(key);
  if (found == index_.end()) {
    ++counts_.misses;
    return nullptr;
  }
  ++counts_.hits;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->embedding;
}

bool PromptCache::Contains(const PromptKey& key) const {
  MutexLock lock(&mutex_);
  return index_.contains(key);
}

void PromptCache::CountHit() {
  MutexLock lock(&mutex_);
  ++counts_.hits;
}

void PromptCache::Insert(const PromptKey& key, std::shared_ptr<const PromptEmbedding> embedding) {
  const int64_t texts = static_cast<int64_t>(key.clip_l.size() + key.clip_g.size() + key.t5.size());
  const int64_t bytes = embedding->bytes() + 2 * texts;  // the list and the index hold the key
  MutexLock lock(&mutex_);
  if (const auto old = index_.find(key); old != index_.end()) Erase(old->second);
  if (bytes > max_bytes_) return;
  while (counts_.bytes + bytes > max_bytes_) Erase(std::prev(entries_.end()));
  entries_.push_front({key, std::move(embedding), bytes});
  index_.emplace(key, entries_.begin());
  counts_.bytes += bytes;
}

void PromptCache::Erase(Entries::iterator entry) {
  counts_.bytes -= entry->bytes;
  index_.erase(entry->key);
  entries_.erase(entry);
}

PromptCache::Counts PromptCache::counts() const {
  MutexLock lock(&mutex_);
  return counts_;
}

}  // namespace fresco
