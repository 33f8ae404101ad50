// A linear's weight as codes with a scale for each row.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "pipeline/precision/scheme.h"

namespace fresco {

// weight[r][c] ≈ codes[r][c] * scale[r]
struct QuantizedWeight {
  at::Tensor codes;  // [out, in], kFloat8_e4m3fn or kChar, contiguous
  at::Tensor scale;  // [out], kFloat

  int64_t bytes() const { return static_cast<int64_t>(codes.nbytes() + scale.nbytes()); }
};

// Scale of a row: its largest magnitude / 448 (E4M3) or / 127 (int8); codes rounded to nearest even. weight [out, in],
// any floating type, on the CPU or a GPU, or a meta tensor (then so are they); `scheme` other than kHigh. Rows are
// quantised by all of libtorch's threads. A NaN or infinite weight gives a row of NaN.
QuantizedWeight QuantizeWeight(const at::Tensor& weight, LinearScheme scheme);

// The weight that the codes stand for, in `dtype`: for E4M3 on the CPU rounded once, else to fp32 first.
at::Tensor Dequantize(const QuantizedWeight& weight, at::ScalarType dtype);
// The same into `values` [out, in], contiguous, kFloat or kBFloat16, on the CPU.
void Dequantize(const QuantizedWeight& weight, at::Tensor& values);

// Rows of the first, then of the second, …: exact, as each row has its own scale. Where the parts' codes lie one after
// the other in the host's memory (as `fresco-model quantize` writes q, k and v), a view that keeps all parts alive.
QuantizedWeight Stack(const std::vector<QuantizedWeight>& parts);

}  // namespace fresco
