// The tensors of tests/reference as ATen's, for tests of what computes with them.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include "tests/support/reference.h"

namespace fresco {

// In the type it is stored in, on the CPU, memory of its own. Throws as ReferenceResult does.
at::Tensor TensorOf(const ReferenceResult& result, std::string_view name);

// The largest |a - b|, in fp32; infinite where the shapes differ or a value is not finite.
double LargestDifference(const at::Tensor& a, const at::Tensor& b);

// 10·log10(mean(expected²) / mean((actual - expected)²)) in dB: how far the error is below the signal.
double SignalToError(const at::Tensor& actual, const at::Tensor& expected);

}  // namespace fresco
