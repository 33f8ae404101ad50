#include "pipeline/precision/row_codes.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/logical_not.h>
#include <ATen/ops/masked_fill.h>
#include <ATen/ops/round.h>

#include <limits>

namespace fresco {

float LargestCode(LinearScheme scheme) {
  return IsFp8(scheme) ? kernels::kE4M3Largest : kernels::kInt8Largest;
}

at::ScalarType CodeType(LinearScheme scheme) {
  return IsFp8(scheme) ? at::kFloat8_e4m3fn : at::kChar;
}

// A division by a number is a product with its reciprocal on a GPU, which may be the next float; one by a tensor is
// not.
at::Tensor ScalesByTensors(const at::Tensor& x, LinearScheme scheme) {
  const at::Tensor largest = x.abs().amax({-1}, /*keepdim=*/true);
  const at::Tensor scale = largest / at::full({}, double{LargestCode(scheme)}, largest.options());
  const at::Tensor normal = scale.masked_fill(scale < double{kernels::kSmallestScale}, 1.0);
  return normal.masked_fill_(at::isfinite(largest).logical_not(), std::numeric_limits<double>::quiet_NaN());
}

at::Tensor CodesByTensors(const at::Tensor& x, const at::Tensor& inverse_scale, LinearScheme scheme) {
  const double limit = LargestCode(scheme);
  at::Tensor codes = x * inverse_scale;
  if (!IsFp8(scheme)) codes.round_();
  return codes.clamp_(-limit, limit).to(CodeType(scheme));
}

}  // namespace fresco
