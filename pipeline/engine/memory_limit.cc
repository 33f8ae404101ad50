#include "pipeline/engine/memory_limit.h"

#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/gpu_allocator.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/torch_boundary.h"

namespace fresco {
namespace {

// The caching allocator reads it when it is made.
absl::Status SetShareOfGpus(const at::Device& device, const std::string& name, int64_t bytes) {
  if (c10::getDeviceAllocator(device.type())->initialized())
    return absl::FailedPreconditionError(StrCat(name, ": a limit of memory is set before the first model is loaded"));
  const int64_t total = MemoryOf(device).total_bytes;
  if (total == 0) return absl::UnavailableError(StrCat(name, ": the device does not say how much memory it has"));
  const double share = std::min(1.0, static_cast<double>(bytes) / static_cast<double>(total));
  AddAllocatorSetting(StrCat("per_process_memory_fraction:", share));
  return absl::OkStatus();
}

absl::Status Set(const std::string& name, int64_t bytes) {
  FRESCO_ASSIGN_OR_RETURN(const at::Device device, PrepareDevice(name, /*threads=*/0));
  if (!device.is_cpu() && bytes > 0) FRESCO_RETURN_IF_ERROR(SetShareOfGpus(device, name, bytes));
  LedgerOf(device).SetLimit(bytes);
  return absl::OkStatus();
}

}  // namespace

absl::Status SetMemoryLimit(const std::string& device, int64_t bytes) {
  if (bytes < 0) return absl::InvalidArgumentError(StrCat(device, ": a limit of ", bytes, " bytes"));
  return CatchTorch("the limit of memory", [&] { return Set(device, bytes); });
}

}  // namespace fresco
