// Who holds how much of one device's memory, now and when it held the most: kept by whoever allocates there.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "pipeline/base/memory_scope.h"
#include "pipeline/base/mutex.h"

namespace fresco {

// What one holder has, in bytes.
struct MemoryHeld {
  MemoryHolder holder;
  int64_t bytes = 0;          // now
  int64_t peak_bytes = 0;     // the most it has been
  int64_t at_peak_bytes = 0;  // when all holders together had the most
};

// A large allocation.
struct MemoryBlock {
  MemoryHolder holder;
  std::string name;  // a tensor's; empty: not known
  int64_t bytes = 0;
};

struct MemorySnapshot {
  int64_t allocated_bytes = 0;       // by all holders
  int64_t peak_bytes = 0;            // the most it has been since ResetPeak
  int64_t limit_bytes = 0;           // 0: none
  std::vector<MemoryHeld> held;      // whoever has anything, or had at the peak; the largest first
  std::vector<MemoryBlock> largest;  // of the blocks that are held now; the largest first
};

// The state of a device when memory ran out.
struct MemoryShortage {
  int64_t asked_bytes = 0;  // in vain
  MemorySnapshot before;
};

// Hears of every change, on the thread that makes it and under the ledger's lock: it allocates no tensor and is quick.
class MemoryListener {
 public:
  virtual ~MemoryListener() = default;
  // `holder` has `bytes` now.
  virtual void OnChange(MemoryHolderId holder, int64_t bytes) = 0;
};

// Thread-safe. Of what is small only the sums are known, which are atomic numbers; of what is large, each block.
class MemoryLedger {
 public:
  static constexpr int64_t kLargeBytes = 1 << 20;

  MemoryLedger() = default;
  MemoryLedger(const MemoryLedger&) = delete;
  MemoryLedger& operator=(const MemoryLedger&) = delete;

  enum class Limit { kKeep, kIgnore };
  // `bytes` are held by `holder` from now on. False, and nothing is: they would go beyond the limit.
  bool Take(int64_t bytes, MemoryHolderId holder, Limit limit = Limit::kKeep);
  void Give(int64_t bytes, MemoryHolderId holder);

  // Blocks that were taken, by their address, under the thread's CurrentMemoryName; no more than noted where they are
  // not large.
  void Remember(const void* data, int64_t bytes, MemoryHolderId holder);
  void Forget(const void* data, int64_t bytes);

  // 0: none. What is taken already stays so.
  void SetLimit(int64_t bytes) { limit_ = bytes; }
  int64_t limit() const { return limit_.load(std::memory_order_relaxed); }

  int64_t allocated_bytes() const { return allocated_.load(std::memory_order_relaxed); }
  int64_t peak_bytes() const { return peak_.load(std::memory_order_relaxed); }
  // The peak becomes what is held now.
  void ResetPeak();

  // Of each holder, by its number: kMaxMemoryHolders of them.
  std::vector<int64_t> HeldBytes() const { return {held_.begin(), held_.end()}; }
  // With at most so many of the largest blocks.
  MemorySnapshot Snapshot(int blocks = 0) const;

  // `asked` bytes could not be had: what is held now is kept for the calling thread's TakeMemoryShortage.
  void NoteShortage(int64_t asked) const;

  // Null: nobody. The one before is told nothing more once this returns.
  void SetListener(MemoryListener* listener);

 private:
  struct Block {
    int64_t bytes = 0;
    MemoryHolderId holder = 0;
    std::string name;
  };
  using Numbers = std::array<std::atomic<int64_t>, kMaxMemoryHolders>;  // by holder

  void RaisePeak(int64_t allocated);
  void Tell(MemoryHolderId holder);
  std::vector<MemoryBlock> LargestBlocks(int count) const FRESCO_REQUIRES(mutex_);

  std::atomic<int64_t> allocated_ = 0;
  std::atomic<int64_t> peak_ = 0;  // rises under the mutex, together with at_peak_
  std::atomic<int64_t> limit_ = 0;
  Numbers held_ = {};
  Numbers most_ = {};
  std::atomic<bool> listening_ = false;

  mutable Mutex mutex_;
  std::array<int64_t, kMaxMemoryHolders> at_peak_ FRESCO_GUARDED_BY(mutex_) = {};
  std::unordered_map<const void*, Block> blocks_ FRESCO_GUARDED_BY(mutex_);
  MemoryListener* listener_ FRESCO_GUARDED_BY(mutex_) = nullptr;
};

// What the calling thread's last NoteShortage saw; at most once. Nothing where there was none, as where another thread
// allocated for this one.
std::optional<MemoryShortage> TakeMemoryShortage();

}  // namespace fresco
