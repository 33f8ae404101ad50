#include "pipeline/engine/kernel_choosing.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <torch/headeronly/version.h>

#include <utility>

#include "pipeline/base/clock.h"
#include "pipeline/base/memory_scope.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/cuda_runtime.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/models/gpu_attention.h"
#include "pipeline/precision/gpu_product.h"
#include "pipeline/precision/kernel_chooser.h"

namespace fresco {
namespace {

using Candidates = std::vector<KernelCandidate>;

KernelMachine MachineOf(const at::Device& device, const DeviceKernels& kernels) {
  const at::CUDAHooksInterface& cuda = at::detail::getCUDAHooks();
  const std::string cublas = kernels.cublas_lt != nullptr ? StrCat(", cuBLASLt ", kernels.cublas_lt->version()) : "";
  return {CudaDeviceName(device.index()),
          StrCat("libtorch ", TORCH_VERSION, ", CUDA ", cuda.versionCUDART(), ", cuDNN ", cuda.versionRuntimeCuDNN(),
                 cublas),
          FRESCO_VERSION};
}

absl::StatusOr<Candidates> CandidatesFor(const KernelTask& task, const at::Device& device,
                                         const std::shared_ptr<DeviceKernels>& kernels) {
  return CatchTorch("measuring", [&]() -> absl::StatusOr<Candidates> {
    if (task.operation == "attention") return AttentionCandidates(task, device);
    return ProductCandidates(task, device, kernels);
  });
}

absl::StatusOr<std::vector<std::string>> Choose(const at::Device& device, const std::string& folder,
                                                const std::shared_ptr<DeviceKernels>& kernels) {
  const SystemClock clock;
  KernelChooser chooser;
  chooser.machine = MachineOf(device, *kernels);
  chooser.folder = folder;
  chooser.clock = {&clock, [&] {
                     return CatchTorch("measuring", [&] {
                       Synchronize(device);
                       return absl::OkStatus();
                     });
                   }};
  chooser.candidates = [&](const KernelTask& task) { return CandidatesFor(task, device, kernels); };
  return MakeChoices(chooser, &kernels->choices);
}

}  // namespace

std::shared_ptr<DeviceKernels> MakeDeviceKernels(const at::Device& device) {
  if (!device.is_cuda()) return nullptr;
  absl::StatusOr<std::shared_ptr<const CublasLt>> cublas_lt = CublasLt::Load();
  if (!cublas_lt.ok()) return std::make_shared<DeviceKernels>();  // libtorch's kernels are all there is
  return std::shared_ptr<DeviceKernels>(new DeviceKernels{.choices = {}, .cublas_lt = *std::move(cublas_lt)});
}

std::vector<std::string> ChooseKernels(const at::Device& device, const std::string& folder,
                                       const std::shared_ptr<DeviceKernels>& kernels) {
  if (kernels == nullptr) return {};
  const CacheRelease release(device);  // of what a measurement has held
  const c10::OptionalDeviceGuard guard(device);
  const c10::InferenceMode inference;
  const MemoryScope memory("transformer", MemoryKind::kActivations);
  const auto notes = CatchTorch("choosing kernels", [&] { return Choose(device, folder, kernels); });
  TakeMemoryShortage();  // a measurement that had no room is none
  return notes.ok() ? *notes : std::vector<std::string>{StrCat("kernels: ", notes.status().message())};
}

}  // namespace fresco
