// How much memory libtorch's tensors hold on a device, and for whom (pipeline/base/memory_scope.h).
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <utility>

#include "pipeline/base/memory_ledger.h"
#include "pipeline/base/memory_scope.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/memory_shortage.h"

namespace fresco {

struct MemoryUse {
  int64_t allocated_bytes = 0;  // now
  int64_t peak_bytes = 0;       // the most it has been
};

// From now on libtorch's CPU allocations are counted (a libtorch allocator is one per process, and so are the numbers).
// Call it before the first tensor that is to count; further calls do nothing. Thread-safe.
void CountCpuMemory();

// Adds to the CPU's numbers, while it lives, bytes that tensors hold without libtorch having allocated them: weights
// that lie in their mapped files. They are the current MemoryScope's.
class MappedBytes {
 public:
  MappedBytes() = default;
  // Throws c10::OutOfMemoryError beyond the CPU's limit.
  explicit MappedBytes(int64_t bytes);
  ~MappedBytes();
  MappedBytes(MappedBytes&& other) noexcept : bytes_(std::exchange(other.bytes_, 0)), holder_(other.holder_) {}
  MappedBytes& operator=(MappedBytes&&) = delete;

 private:
  int64_t bytes_ = 0;
  MemoryHolderId holder_ = 0;
};

// Who holds what of a device, as far as this process's threads have said (MemoryReporting, on a GPU). Never destroyed.
// Thread-safe.
MemoryLedger& LedgerOf(const at::Device& device);

// Of this process: the counted CPU allocations and mapped bytes, or the caching allocator's on a CUDA device.
// Zeros where the device does not answer. Thread-safe.
MemoryUse MemoryUseOf(const at::Device& device) noexcept;

// Of the device, or on a CPU of the machine or, where that is less, of the process's control group; no more than
// SetMemoryLimit (memory_limit.h) leaves. Zeros where neither answers. Thread-safe; a CUDA device that hangs may keep
// its caller waiting.
DeviceMemory MemoryOf(const at::Device& device) noexcept;

// What the calling thread has allocated on the CPU less what it has freed, since it began: to measure what one thread
// takes while others compute. Counts as CountCpuMemory does.
int64_t CpuBytesOfThisThread() noexcept;

// What the calling thread has run out of (once: TakeMemoryShortage), or who holds the device's memory now, and the
// whole of it.
void SetMemory(const at::Device& device, ShortageReport* report);

// While it lives nothing; afterwards, what the device's allocator has cached and nothing uses is free for others. For
// the last member of a model to be destroyed.
class CacheRelease {
 public:
  explicit CacheRelease(const at::Device& device) : device_(device) {}
  ~CacheRelease();
  CacheRelease(const CacheRelease&) = delete;
  CacheRelease& operator=(const CacheRelease&) = delete;

 private:
  const at::Device device_;
};

// The peak becomes what is allocated now; where the device does not answer, nothing happens. Thread-safe.
void ResetPeakMemory(const at::Device& device) noexcept;

}  // namespace fresco
