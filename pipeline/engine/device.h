// Makes a device ready for computing.
#pragma once

#include <c10/core/Device.h>

#include <string>

#include "absl/status/statusor.h"

namespace fresco {

// "cpu" or "cuda:N" ("cuda" is cuda:0), whether it is there or not; INVALID_ARGUMENT for another name.
absl::StatusOr<at::Device> ParseDevice(const std::string& name);

// `name`: "cpu" or "cuda:N" ("cuda" is cuda:0). Loads CUDA where it is asked for, starts counting the CPU's memory, and
// sets the thread count of libtorch's CPU kernels, one per process (0: leaves it as it is). INVALID_ARGUMENT for
// another name, UNAVAILABLE where there is no such device. May throw libtorch's exceptions.
absl::StatusOr<at::Device> PrepareDevice(const std::string& name, int threads);

// Returns when all work given to the device is done.
void Synchronize(const at::Device& device);

}  // namespace fresco
