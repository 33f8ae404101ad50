#include "pipeline/engine/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/capture_turn.h"
#include "pipeline/engine/cuda_runtime.h"
#include "pipeline/engine/gpu_allocator.h"
#include "pipeline/engine/memory.h"

namespace fresco {
namespace {

absl::Status PrepareCuda(const at::Device& device) {
  FRESCO_RETURN_IF_ERROR(LoadCuda());
  const int count = CudaDeviceCount();
  if (device.index() >= count)
    return absl::UnavailableError(
        StrCat("device cuda:", static_cast<int>(device.index()), ": this machine has ", count, " usable CUDA devices"));
  GrowGpuSegments(device);
  // fp32 means fp32: cuDNN would round convolutions' inputs to 10 bits.
  at::globalContext().setAllowTF32CuDNN(false);
  // The same convolution has the same bits each time: what `deterministic` promises.
  at::globalContext().setDeterministicCuDNN(true);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<at::Device> ParseDevice(const std::string& name) {
  if (name == "cpu") return at::Device(at::kCPU);
  if (name == "cuda") return at::Device(at::kCUDA, 0);
  int index = 0;
  if (absl::StartsWith(name, "cuda:") && absl::SimpleAtoi(name.substr(5), &index) && index >= 0 && index < 128)
    return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index));
  return absl::InvalidArgumentError(StrCat("device '", name, "' is unknown: it is cpu or cuda:N"));
}

absl::StatusOr<at::Device> PrepareDevice(const std::string& name, int threads) {
  FRESCO_ASSIGN_OR_RETURN(const at::Device device, ParseDevice(name));
  CountCpuMemory();
  if (threads > 0) at::set_num_threads(threads);
  if (device.is_cuda()) FRESCO_RETURN_IF_ERROR(PrepareCuda(device));
  return device;
}

void Synchronize(const at::Device& device) {
  if (!device.is_cuda()) return;
  const MutexLock turn(&CaptureTurn());
  c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

}  // namespace fresco
