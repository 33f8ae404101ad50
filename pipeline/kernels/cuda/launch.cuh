// What the library's functions have in common: which of a kernel's types, and what CUDA says of its launch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "pipeline/kernels/element_types.h"

namespace fresco::kernels {

// Null, or CUDA's words for what went wrong in the calling thread's last launch.
inline const char* LaunchError() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Calls launch(BFloat16()) or launch(Float16()), as `type` says (CudaElement of cuda_library.h), and returns
// LaunchError().
template <typename Launch>
const char* LaunchByType(int32_t type, const Launch& launch) {
  if (type == 1) {
    launch(BFloat16());
  } else {
    launch(Float16());
  }
  return LaunchError();
}

}  // namespace fresco::kernels
