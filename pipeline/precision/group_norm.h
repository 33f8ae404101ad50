// GroupNorm of a channels-last image, and SiLU.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace fresco {

struct GroupNormWeights {
  at::Tensor weight, bias;  // [C]
  int64_t groups = 32;
  double eps = 1e-6;
};

// x [1, C, H, W] → its norm, then with `silu` y · sigmoid(y) of it, in x's type. On a GPU, in bf16 or fp16 and where C
// is a multiple of 8, by the kernel of libfresco_cuda.so: channels-last, in fp32 and rounded once. Elsewhere by
// libtorch's operations, each rounded, in the layout that they give: x's on a CPU, not channels-last on a GPU.
// Thread-safe; throws libtorch's exceptions.
at::Tensor GroupNorm(const at::Tensor& x, const GroupNormWeights& weights, bool silu);

// What the kernel works with, in bytes, besides its input and its result.
int64_t GroupNormScratchBytes(int64_t pixels, int64_t channels);

}  // namespace fresco
