// Whether what was computed are numbers.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace fresco {

// For each tensor, of any shapes on one device: false where a value is NaN or infinite. Waits for the device, once for
// all of them.
std::vector<bool> FiniteFlags(const std::vector<at::Tensor>& tensors);

// As FiniteFlags, of one.
bool AllFinite(const at::Tensor& values);

}  // namespace fresco
