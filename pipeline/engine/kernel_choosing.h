// Chooses, as a model is loaded, the kernels of its products and attentions on a GPU.
#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <string>
#include <vector>

#include "pipeline/precision/device_kernels.h"

namespace fresco {

// For the Placement of what is to be loaded. Null on a CPU, where each task has one kernel. `device` is current.
std::shared_ptr<DeviceKernels> MakeDeviceKernels(const at::Device& device);

// Once all that wants kernels is loaded and nothing computes with it: measures what no file in `folder` (empty: none)
// has, which takes a second or two for a transformer and as much memory as it computes with. Null `kernels`: nothing.
// Returns notes for ModelInfo. Errors leave what is taken without a choice.
std::vector<std::string> ChooseKernels(const at::Device& device, const std::string& folder,
                                       const std::shared_ptr<DeviceKernels>& kernels);

}  // namespace fresco
