// Where a model's weights lie and what it computes in.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <memory>

namespace fresco {

struct DeviceKernels;  // precision/device_kernels.h

struct Placement {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // kFloat, kBFloat16 or kHalf
  // What layers want of, and ask, on a GPU; null: they take the kernels that are taken where nothing was measured.
  std::shared_ptr<DeviceKernels> kernels = nullptr;
};

}  // namespace fresco
