// How a GPU's allocations find their holders: the caching allocator reports each to the thread that makes it.
#pragma once

#include <c10/core/Device.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <optional>

namespace fresco {

// While it lives, what the calling thread allocates and frees on `device` is in its ledger (LedgerOf), under the
// thread's MemoryScope. Nothing on a CPU, whose allocator keeps the ledger itself, nor while libtorch's profiler is on
// in this thread: it has the one place where reports go.
//
// What is freed where nobody listens is found out when its address is given again; until then the ledger has too much.
class MemoryReporting {
 public:
  explicit MemoryReporting(const at::Device& device);
  MemoryReporting(const MemoryReporting&) = delete;
  MemoryReporting& operator=(const MemoryReporting&) = delete;

 private:
  std::optional<c10::DebugInfoGuard> guard_;
};

}  // namespace fresco
