// What lies between an autoencoder's convolutions: GroupNorm of a channels-last image, SiLU, sums.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace fresco {

struct GroupNormWeights {
  at::Tensor weight, bias;  // [C]
  int64_t groups = 32;
  double eps = 1e-6;
};

// An image [1, C, H, W], or a convolution's sums whose bias [C] is still to be added to each pixel: whoever reads them
// next does that on its way, where there are kernels for it.
struct Unbiased {
  at::Tensor sums;
  at::Tensor bias;  // undefined: it is there, or there is none
};

// Whether images like `x`, of so many channels, are computed by kernels of libfresco_cuda.so: on a GPU, in bf16 or fp16
// and channels that are a multiple of 8. Without them no bias may be left out.
bool HasImageKernels(const at::Tensor& x, int64_t channels);

// x → its norm, then with `silu` y · sigmoid(y) of it, in x's type. By the kernel channels-last, in fp32 and rounded
// once. Elsewhere by libtorch's operations, each rounded, in the layout that they give: x's on a CPU, not channels-last
// on a GPU. This and the next are thread-safe and throw libtorch's exceptions.
at::Tensor GroupNorm(const Unbiased& x, const GroupNormWeights& weights, bool silu);

// x + y, in x's memory. By the kernel in fp32 and rounded once.
at::Tensor AddImage(const Unbiased& x, const at::Tensor& y);

// What the kernel works with, in bytes, besides its input and its result.
int64_t GroupNormScratchBytes(int64_t pixels, int64_t channels);

}  // namespace fresco
