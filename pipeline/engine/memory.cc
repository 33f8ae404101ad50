#include "pipeline/engine/memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <string>

namespace fresco {
namespace {

thread_local int64_t bytes_of_this_thread = 0;

// Passes everything on to libtorch's own allocator and counts. The size lies before the data, in a block of the
// allocator's alignment; the context is the data's address, so that raw_allocate works.
class CountingAllocator final : public c10::Allocator {
 public:
  static CountingAllocator& Instance() {
    static CountingAllocator* const instance = new CountingAllocator();  // never destroyed: tensors may outlive main()
    return *instance;
  }

  c10::DataPtr allocate(size_t bytes) override {
    auto* const block = static_cast<std::byte*>(inner_->raw_allocate(bytes + kHeader));
    std::memcpy(block, &bytes, sizeof(bytes));
    Add(static_cast<int64_t>(bytes));
    bytes_of_this_thread += static_cast<int64_t>(bytes);
    return {block + kHeader, block + kHeader, &Delete, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Delete; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  MemoryUse use() const { return {allocated_.load(), peak_.load()}; }
  void ResetPeak() { peak_ = allocated_.load(); }

  // Negative: given back.
  void Add(int64_t bytes) {
    const int64_t now = allocated_ += bytes;
    int64_t peak = peak_.load(std::memory_order_relaxed);
    while (peak < now && !peak_.compare_exchange_weak(peak, now)) {
    }
  }

 private:
  static constexpr size_t kHeader = c10::gAlignment;

  CountingAllocator() : inner_(c10::GetDefaultCPUAllocator()) {}

  static void Delete(void* data) {
    if (data == nullptr) return;
    std::byte* const block = static_cast<std::byte*>(data) - kHeader;
    size_t bytes = 0;
    std::memcpy(&bytes, block, sizeof(bytes));
    Instance().Add(-static_cast<int64_t>(bytes));
    bytes_of_this_thread -= static_cast<int64_t>(bytes);
    Instance().inner_->raw_deallocate(block);
  }

  c10::Allocator* const inner_;
  std::atomic<int64_t> allocated_ = 0;
  std::atomic<int64_t> peak_ = 0;
};

// The first number of a file of /proc or /sys after `key`; 0: it is not there, or is none ("max").
int64_t NumberAfter(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string word; key.empty() || file >> word;) {
    if (!key.empty() && word != key) continue;
    int64_t number = 0;
    return file >> number ? number : 0;
  }
  return 0;
}

DeviceMemory MemoryOfHost() {
  constexpr int64_t kKiB = 1024;
  DeviceMemory memory;
  memory.total_bytes = kKiB * NumberAfter("/proc/meminfo", "MemTotal:");
  memory.free_bytes = kKiB * NumberAfter("/proc/meminfo", "MemAvailable:");
  const int64_t limit = NumberAfter("/sys/fs/cgroup/memory.max", "");
  if (limit <= 0 || limit >= memory.total_bytes) return memory;
  memory.total_bytes = limit;
  const int64_t left = limit - NumberAfter("/sys/fs/cgroup/memory.current", "");
  memory.free_bytes = std::min(memory.free_bytes, std::max<int64_t>(0, left));
  return memory;
}

}  // namespace

void CountCpuMemory() {
  static const bool installed = [] {
    c10::SetCPUAllocator(&CountingAllocator::Instance(), /*priority=*/1);
    return true;
  }();
  static_cast<void>(installed);
}

MappedBytes::MappedBytes(int64_t bytes) : bytes_(bytes) {
  CountingAllocator::Instance().Add(bytes);
}

MappedBytes::~MappedBytes() {
  CountingAllocator::Instance().Add(-bytes_);
}

MemoryUse MemoryUseOf(const at::Device& device) noexcept {
  if (device.is_cpu()) return CountingAllocator::Instance().use();
  try {
    const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
    const auto& bytes = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
    return {bytes.current, bytes.peak};
  } catch (...) {  // whoever asks only counts, and has nowhere to go with an error
    return {};
  }
}

DeviceMemory MemoryOf(const at::Device& device) noexcept {
  try {
    if (device.is_cpu()) return MemoryOfHost();
    const auto [free, total] = c10::getDeviceAllocator(device.type())->getMemoryInfo(device.index());
    return {static_cast<int64_t>(total), static_cast<int64_t>(free)};
  } catch (...) {  // as in MemoryUseOf
    return {};
  }
}

int64_t CpuBytesOfThisThread() noexcept {
  return bytes_of_this_thread;
}

CacheRelease::~CacheRelease() {
  if (device_.is_cpu()) return;
  try {
    c10::getDeviceAllocator(device_.type())->emptyCache();
  } catch (...) {  // as in MemoryUseOf
  }
}

void ResetPeakMemory(const at::Device& device) noexcept {
  if (device.is_cpu()) {
    CountingAllocator::Instance().ResetPeak();
  } else {
    try {
      c10::getDeviceAllocator(device.type())->resetPeakStats(device.index());
    } catch (...) {  // as in MemoryUseOf
    }
  }
}

}  // namespace fresco
