// A bound for what tensors take of a device. Torch-free.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace fresco {

// From now on tensors of this process take at most `bytes` of `device` ("cpu", "cuda:0"; 0: no bound): what would go
// beyond runs out of memory, as it does on a device that has no more. Weights in mapped files count too.
//
// On a CPU at any time, and what is there already stays. On a GPU before the first tensor is made on one, and the share
// of the memory that it comes to is every GPU's: FAILED_PRECONDITION later, UNAVAILABLE where there is no such device.
// Thread-safe.
absl::Status SetMemoryLimit(const std::string& device, int64_t bytes);

}  // namespace fresco
