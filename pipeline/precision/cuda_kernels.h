// The kernels of libfresco_cuda.so, launched beside libtorch's own. All functions are thread-safe.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "absl/status/status.h"

namespace fresco {

class CudaLibrary;                 // pipeline/kernels/cuda_library.h
enum class CudaElement : int32_t;  // likewise

// Whether there is a library of kernels that GPUs can run; the first call loads it, for good. NOT_FOUND for a build
// without, FAILED_PRECONDITION with the linker's words.
absl::Status CudaKernelsStatus();

// bf16 or fp16, of which most kernels' elements are.
bool IsHalfWide(at::ScalarType type);
// Of these and fp32.
CudaElement ElementOf(at::ScalarType type);

// Calls launch(library, stream) with x's device as the current one and its current stream (a cudaStream_t), under
// `name` in a profile. Only where CudaKernelsStatus() is OK. Throws c10::Error for what it returns.
void LaunchBeside(const at::Tensor& x, const char* name,
                  const std::function<absl::Status(const CudaLibrary&, void* stream)>& launch);

}  // namespace fresco
