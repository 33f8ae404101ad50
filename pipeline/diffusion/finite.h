// Whether what was computed are numbers.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace fresco {

// For each tensor, of any shapes on one device: false where a value is NaN or infinite. Waits for the device, once for
// all of them.
std::vector<bool> FiniteFlags(const std::vector<at::Tensor>& tensors);

// The same of one tensor without waiting: `flag` [] or [1], kFloat, on its device, at 0, becomes NaN where a value is
// not finite.
void MarkNonfinite(const at::Tensor& values, const at::Tensor& flag);

// As FiniteFlags, of one.
bool AllFinite(const at::Tensor& values);

}  // namespace fresco
