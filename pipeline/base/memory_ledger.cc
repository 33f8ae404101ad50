#include "pipeline/base/memory_ledger.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace fresco {
namespace {

constexpr int kShortageBlocks = 5;

thread_local std::optional<MemoryShortage> last_shortage;

void Raise(std::atomic<int64_t>* most, int64_t now) {
  int64_t before = most->load(std::memory_order_relaxed);
  while (before < now && !most->compare_exchange_weak(before, now, std::memory_order_relaxed)) {
  }
}

}  // namespace

bool MemoryLedger::Take(int64_t bytes, MemoryHolderId holder, Limit keep) {
  const int64_t now = allocated_.fetch_add(bytes) + bytes;
  const int64_t limit = keep == Limit::kKeep ? limit_.load(std::memory_order_relaxed) : 0;
  if (limit > 0 && bytes > 0 && now > limit) {
    allocated_ -= bytes;
    return false;
  }
  Raise(&most_[holder], held_[holder].fetch_add(bytes, std::memory_order_relaxed) + bytes);
  if (now > peak_.load(std::memory_order_relaxed)) RaisePeak(now);
  if (listening_.load(std::memory_order_relaxed)) Tell(holder);
  return true;
}

void MemoryLedger::Give(int64_t bytes, MemoryHolderId holder) {
  allocated_ -= bytes;
  held_[holder].fetch_sub(bytes, std::memory_order_relaxed);
  if (listening_.load(std::memory_order_relaxed)) Tell(holder);
}

void MemoryLedger::RaisePeak(int64_t allocated) {
  MutexLock lock(&mutex_);
  if (allocated <= peak_.load(std::memory_order_relaxed)) return;
  peak_ = allocated;
  const auto count = static_cast<size_t>(MemoryHolderCount());
  for (size_t i = 0; i < count; ++i) at_peak_[i] = held_[i].load(std::memory_order_relaxed);
}

void MemoryLedger::ResetPeak() {
  MutexLock lock(&mutex_);
  peak_ = allocated_.load();
  for (size_t i = 0; i < at_peak_.size(); ++i) {
    at_peak_[i] = held_[i].load(std::memory_order_relaxed);
    most_[i] = at_peak_[i];
  }
}

void MemoryLedger::Remember(const void* data, int64_t bytes, MemoryHolderId holder) {
  if (bytes < kLargeBytes) return;
  Block block = {bytes, holder, std::string(CurrentMemoryName())};
  MutexLock lock(&mutex_);
  blocks_.insert_or_assign(data, std::move(block));
}

void MemoryLedger::Forget(const void* data, int64_t bytes) {
  if (bytes < kLargeBytes) return;
  MutexLock lock(&mutex_);
  blocks_.erase(data);
}

void MemoryLedger::Tell(MemoryHolderId holder) {
  MutexLock lock(&mutex_);
  if (listener_ != nullptr) listener_->OnChange(holder, held_[holder].load());
}

void MemoryLedger::SetListener(MemoryListener* listener) {
  MutexLock lock(&mutex_);
  listener_ = listener;
  listening_ = listener != nullptr;
}

std::vector<MemoryBlock> MemoryLedger::LargestBlocks(int count) const {
  std::vector<const Block*> blocks;
  for (const auto& [data, block] : blocks_) blocks.push_back(&block);
  const auto end = blocks.begin() + std::min<ptrdiff_t>(count, std::ssize(blocks));
  std::partial_sort(blocks.begin(), end, blocks.end(), [](const Block* a, const Block* b) {
    return std::tie(a->bytes, b->name) > std::tie(b->bytes, a->name);  // equal ones by name
  });
  std::vector<MemoryBlock> largest;
  for (auto block = blocks.begin(); block != end; ++block)
    largest.push_back({MemoryHolderOf((*block)->holder), (*block)->name, (*block)->bytes});
  return largest;
}

MemorySnapshot MemoryLedger::Snapshot(int blocks) const {
  MemorySnapshot snapshot;
  MutexLock lock(&mutex_);
  snapshot.allocated_bytes = allocated_bytes();
  snapshot.peak_bytes = peak_bytes();
  snapshot.limit_bytes = limit();
  const int count = MemoryHolderCount();
  for (int i = 0; i < count; ++i) {
    const auto index = static_cast<size_t>(i);
    const MemoryHeld held = {MemoryHolderOf(static_cast<MemoryHolderId>(i)), held_[index].load(), most_[index].load(),
                             at_peak_[index]};
    if (held.bytes != 0 || held.at_peak_bytes != 0) snapshot.held.push_back(held);
  }
  std::stable_sort(snapshot.held.begin(), snapshot.held.end(),
                   [](const MemoryHeld& a, const MemoryHeld& b) { return a.bytes > b.bytes; });
  snapshot.largest = LargestBlocks(blocks);
  return snapshot;
}

void MemoryLedger::NoteShortage(int64_t asked) const {
  last_shortage = {asked, Snapshot(kShortageBlocks)};
}

std::optional<MemoryShortage> TakeMemoryShortage() {
  return std::exchange(last_shortage, std::nullopt);
}

}  // namespace fresco
