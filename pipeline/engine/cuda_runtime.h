// libtorch's CUDA half, loaded at run time: a program is linked to libtorch_cpu alone and runs where no GPU is.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/engine/device_graph.h"

namespace fresco {

// Loads libtorch_cuda.so before the first use of a CUDA device. UNAVAILABLE with the linker's message where it cannot
// be loaded; the answer of the first call is every call's. Thread-safe.
absl::Status LoadCuda();

// Usable CUDA devices; 0 where there is no library, driver or GPU.
int CudaDeviceCount();

// What records the graphs of a CUDA device, in its turn (capture_turn.h): of libfresco_cuda_graph.so, beside the
// running program's libfresco_cuda.so. NOT_FOUND for a build without it, FAILED_PRECONDITION with the linker's words.
// May throw libtorch's exceptions.
absl::StatusOr<std::unique_ptr<GraphMaker>> MakeCudaGraphs(int device, GraphPriority priority);

// 10 * major + minor: 90 for a Hopper. 0 where it cannot be asked.
int CudaCapability(int device);

// "NVIDIA H200". "unknown GPU" where it cannot be asked.
std::string CudaDeviceName(int device);

}  // namespace fresco
