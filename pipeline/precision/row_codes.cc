#include "pipeline/precision/row_codes.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/round.h>
#include <ATen/ops/where.h>

namespace fresco {

float LargestCode(LinearScheme scheme) {
  return IsFp8(scheme) ? kernels::kE4M3Largest : kernels::kInt8Largest;
}

at::ScalarType CodeType(LinearScheme scheme) {
  return IsFp8(scheme) ? at::kFloat8_e4m3fn : at::kChar;
}

at::Tensor ScalesByTensors(const at::Tensor& x, LinearScheme scheme) {
  const at::Tensor largest = x.abs().amax({-1}, /*keepdim=*/true);
  return at::where(largest == 0, 1.0, largest / double{LargestCode(scheme)}).to(at::kFloat);
}

at::Tensor CodesByTensors(const at::Tensor& x, const at::Tensor& inverse_scale, LinearScheme scheme) {
  const double limit = LargestCode(scheme);
  at::Tensor codes = x * inverse_scale;
  if (!IsFp8(scheme)) codes.round_();
  return codes.clamp_(-limit, limit).to(CodeType(scheme));
}

}  // namespace fresco
