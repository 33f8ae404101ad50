// Rows and their codes, for whoever quantises: what a token is quantised with, and the kernels' arithmetic in
// libtorch's own operations, for the devices and types that no kernel is for.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>

#include "pipeline/kernels/cpu/row_kernels.h"
#include "pipeline/kernels/e4m3.h"
#include "pipeline/precision/scheme.h"

namespace fresco {

// Of `scheme`, which is not kHigh: the largest magnitude that a code can have, and the type that codes are kept in.
float LargestCode(LinearScheme scheme);
at::ScalarType CodeType(LinearScheme scheme);

// Of x, kFloat, whose rows are its last dimension: kernels::RowScale of each row [.., 1].
at::Tensor ScalesByTensors(const at::Tensor& x, LinearScheme scheme);

// The codes of x / scale in CodeType; x and the reciprocal of the scale kFloat, and broadcast.
at::Tensor CodesByTensors(const at::Tensor& x, const at::Tensor& inverse_scale, LinearScheme scheme);

// What a token is quantised with, and how many of its elements are beyond a fixed scale: clamped, or, with a guard,
// not.
struct TokenScale {
  float scale = 1;
  int64_t beyond = 0;
};

// `fixed`: one scale for all tokens; without it each has its own, with which nothing saturates. `guard`: a token that
// goes beyond the fixed scale has its own. A token with a NaN or an infinity has a scale of NaN, whatever is fixed.
// Element: float, or the bits of bfloat16.
template <typename Element>
TokenScale ScaleOfToken(std::span<const Element> token, LinearScheme scheme, std::optional<float> fixed, bool guard) {
  const float largest = kernels::AbsMax(token);
  const float own = kernels::RowScale(largest, LargestCode(scheme));
  const bool finite = own == own;
  if (!fixed || !finite) return {own, 0};
  const float limit = *fixed * LargestCode(scheme);
  if (largest <= limit) return {*fixed, 0};
  return {guard ? own : *fixed, static_cast<int64_t>(kernels::CountSaturated(token, limit))};
}

}  // namespace fresco
