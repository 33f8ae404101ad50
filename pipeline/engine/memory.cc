#include "pipeline/engine/memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <string>

#include "pipeline/base/mutex.h"
#include "pipeline/engine/capture_turn.h"

namespace fresco {
namespace {

constexpr size_t kMostGpus = 64;

thread_local int64_t bytes_of_this_thread = 0;

// Passes everything on to libtorch's own allocator and counts. The size and whose it is lie before the data, in a block
// of the allocator's alignment; the context is the data's address, so that raw_allocate works.
class CountingAllocator final : public c10::Allocator {
 public:
  static CountingAllocator& Instance() {
    static CountingAllocator* const instance = new CountingAllocator();  // never destroyed: tensors may outlive main()
    return *instance;
  }

  c10::DataPtr allocate(size_t bytes) override {
    const Header header = {static_cast<int64_t>(bytes), CurrentMemoryHolder()};
    Take(header);
    auto* const block = static_cast<std::byte*>(Inner(header));
    std::memcpy(block, &header, sizeof(header));
    std::byte* const data = block + kHeader;
    ledger_.Remember(data, header.bytes, header.holder);
    bytes_of_this_thread += header.bytes;
    return {data, data, &Delete, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Delete; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  MemoryLedger& ledger() { return ledger_; }

  struct Header {
    int64_t bytes = 0;
    MemoryHolderId holder = 0;
  };
  // Throws where the limit does not allow it.
  void Take(const Header& header) {
    if (ledger_.Take(header.bytes, header.holder)) return;
    ledger_.NoteShortage(header.bytes);
    TORCH_CHECK_WITH(OutOfMemoryError, false, "out of memory: the limit is ", ledger_.limit(), " bytes, of which ",
                     ledger_.allocated_bytes(), " are taken; ", header.bytes, " more were asked for");
  }

 private:
  static constexpr size_t kHeader = c10::gAlignment;
  static_assert(sizeof(Header) <= kHeader);

  CountingAllocator() : inner_(c10::GetDefaultCPUAllocator()) {}

  void* Inner(const Header& header) {
    try {
      return inner_->raw_allocate(static_cast<size_t>(header.bytes) + kHeader);
    } catch (...) {
      ledger_.Give(header.bytes, header.holder);
      ledger_.NoteShortage(header.bytes);
      throw;
    }
  }

  static void Delete(void* data) {
    if (data == nullptr) return;
    std::byte* const block = static_cast<std::byte*>(data) - kHeader;
    Header header;
    std::memcpy(&header, block, sizeof(header));
    CountingAllocator& self = Instance();
    self.ledger_.Forget(data, header.bytes);
    self.ledger_.Give(header.bytes, header.holder);
    bytes_of_this_thread -= header.bytes;
    self.inner_->raw_deallocate(block);
  }

  c10::Allocator* const inner_;
  MemoryLedger ledger_;
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

// Of what a device has, what the ledger's limit leaves.
DeviceMemory Within(const MemoryLedger& ledger, DeviceMemory memory) {
  const int64_t limit = ledger.limit();
  if (limit == 0) return memory;
  const int64_t left = std::max<int64_t>(0, limit - ledger.allocated_bytes());
  memory.free_bytes = memory.total_bytes == 0 ? left : std::min(memory.free_bytes, left);
  memory.total_bytes = memory.total_bytes == 0 ? limit : std::min(memory.total_bytes, limit);
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

MappedBytes::MappedBytes(int64_t bytes) : bytes_(bytes), holder_(CurrentMemoryHolder()) {
  CountingAllocator::Instance().Take({bytes, holder_});
}

MappedBytes::~MappedBytes() {
  CountingAllocator::Instance().ledger().Give(bytes_, holder_);
}

MemoryLedger& LedgerOf(const at::Device& device) {
  if (device.is_cpu()) return CountingAllocator::Instance().ledger();
  // Of GPUs, by index; an index beyond it, of no GPU, shares the last.
  static auto* const gpus = new std::array<MemoryLedger, kMostGpus>();  // never destroyed, as the CPU's
  const auto index = static_cast<size_t>(std::max<int>(0, device.index()));
  return (*gpus)[std::min(index, gpus->size() - 1)];
}

MemoryUse MemoryUseOf(const at::Device& device) noexcept {
  if (device.is_cpu()) {
    const MemoryLedger& ledger = CountingAllocator::Instance().ledger();
    return {ledger.allocated_bytes(), ledger.peak_bytes()};
  }
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
    if (device.is_cpu()) return Within(LedgerOf(device), MemoryOfHost());
    const auto [free, total] = c10::getDeviceAllocator(device.type())->getMemoryInfo(device.index());
    return Within(LedgerOf(device), {static_cast<int64_t>(total), static_cast<int64_t>(free)});
  } catch (...) {  // as in MemoryUseOf
    return {};
  }
}

int64_t CpuBytesOfThisThread() noexcept {
  return bytes_of_this_thread;
}

void SetMemory(const at::Device& device, ShortageReport* report) {
  report->shortage = TakeMemoryShortage();
  if (!report->shortage.has_value()) report->memory = LedgerOf(device).Snapshot();
  report->whole = MemoryOf(device);
}

CacheRelease::~CacheRelease() {
  if (device_.is_cpu()) return;
  const MutexLock turn(&CaptureTurn());
  try {
    c10::getDeviceAllocator(device_.type())->emptyCache();
  } catch (...) {  // as in MemoryUseOf
  }
}

void ResetPeakMemory(const at::Device& device) noexcept {
  LedgerOf(device).ResetPeak();
  if (device.is_cpu()) return;
  try {
    c10::getDeviceAllocator(device.type())->resetPeakStats(device.index());
  } catch (...) {  // as in MemoryUseOf
  }
}

}  // namespace fresco
