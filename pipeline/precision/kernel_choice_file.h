// What was measured of a device's kernels as a small JSON file, so that it is measured once:
//
//   {"format": "fresco-kernel-choices", "version": 1,
//    "machine": {"device": "NVIDIA H200", "libraries": "libtorch 2.11.0, CUDA 13000, cuDNN 91900", "build": "0.1.0"},
//    "choices": [{"operation": "fp8+bias", "type": "bf16", "sizes": [2432, 7296, 8192], "winner": "row-wise",
//                 "seconds": {"per-tensor": 0.00031, "row-wise": 0.00027}}, …]}
//
// Torch-free.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/precision/kernel_choice.h"

namespace fresco {

// What a measurement holds for. Another of any of them is measured anew.
struct KernelMachine {
  std::string device;     // the GPU's name
  std::string libraries;  // whose kernels they are
  std::string build;      // of Fresco, which has kernels too and says what is measured

  bool operator==(const KernelMachine&) const = default;
};

// In `folder`, a file for each name of a device.
std::string KernelChoicesPath(const std::string& folder, const KernelMachine& machine);

std::string KernelChoicesToJson(const KernelMachine& machine, const std::map<KernelTask, MeasuredKernel>& choices);
// INVALID_ARGUMENT, naming the entry and the field, for what this version did not write; FAILED_PRECONDITION for
// choices of another machine.
absl::StatusOr<std::map<KernelTask, MeasuredKernel>> KernelChoicesFromJson(std::string_view json,
                                                                           const KernelMachine& machine);

// The file is replaced as a whole, so that whoever reads it sees the old or the new one, also where several processes
// write it; its folder is made where there is none. Errors name the path.
absl::Status SaveKernelChoices(const KernelMachine& machine, const std::map<KernelTask, MeasuredKernel>& choices,
                               const std::string& path);
// NOT_FOUND where there is none, else as KernelChoicesFromJson.
absl::StatusOr<std::map<KernelTask, MeasuredKernel>> LoadKernelChoices(const KernelMachine& machine,
                                                                       const std::string& path);

}  // namespace fresco
