#include "pipeline/engine/memory_reporting.h"

#include <c10/core/Allocator.h>

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "pipeline/base/mutex.h"
#include "pipeline/engine/memory.h"

namespace fresco {
namespace {

using c10::DebugInfoKind;

// The blocks of all GPUs: a report of one that is freed says only where it was.
class GpuBlocks {
 public:
  static GpuBlocks& Instance() {
    static GpuBlocks* const instance = new GpuBlocks();  // never destroyed: tensors may outlive main()
    return *instance;
  }

  void Add(const void* data, int64_t bytes, const c10::Device& device) {
    MemoryLedger& ledger = LedgerOf(device);
    Remove(data, device);  // of a block that was freed where nobody listened
    const MemoryHolderId holder = CurrentMemoryHolder();
    // The allocator has given it already: nobody else holds it back.
    ledger.Take(bytes, holder, MemoryLedger::Limit::kIgnore);
    ledger.Remember(data, bytes, holder);
    MutexLock lock(&mutex_);
    blocks_[data] = {bytes, holder};
  }

  void Remove(const void* data, const c10::Device& device) {
    Block block;
    {
      MutexLock lock(&mutex_);
      const auto found = blocks_.find(data);
      if (found == blocks_.end()) return;  // it was made where nobody listened
      block = found->second;
      blocks_.erase(found);
    }
    MemoryLedger& ledger = LedgerOf(device);
    ledger.Forget(data, block.bytes);
    ledger.Give(block.bytes, block.holder);
  }

 private:
  struct Block {
    int64_t bytes = 0;
    MemoryHolderId holder = 0;
  };

  Mutex mutex_;
  // Of one address space: CUDA's is unified.
  std::unordered_map<const void*, Block> blocks_ FRESCO_GUARDED_BY(mutex_);
};

// Called under the caching allocator's lock: it allocates nothing on a device.
class Reporter final : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* data, int64_t bytes, size_t /*allocated*/, size_t /*reserved*/,
                         c10::Device device) override {
    if (!device.is_cuda()) return;
    if (bytes > 0) {
      GpuBlocks::Instance().Add(data, bytes, device);
    } else {
      GpuBlocks::Instance().Remove(data, device);
    }
  }
  void reportOutOfMemory(int64_t bytes, size_t /*allocated*/, size_t /*reserved*/, c10::Device device) override {
    if (device.is_cuda()) LedgerOf(device).NoteShortage(bytes);
  }
  bool memoryProfilingEnabled() const override { return true; }
};

}  // namespace

MemoryReporting::MemoryReporting(const at::Device& device) {
  if (device.is_cpu() || c10::ThreadLocalDebugInfo::get(DebugInfoKind::PROFILER_STATE) != nullptr) return;
  static const auto* const reporter = new std::shared_ptr<c10::DebugInfoBase>(std::make_shared<Reporter>());
  guard_.emplace(DebugInfoKind::PROFILER_STATE, *reporter);
}

}  // namespace fresco
