// Attention in FP8: both products on E4M3 codes (kernels/attention8_jobs.h says which). On a GPU that computes FP8 by
// the kernels of libfresco_cuda.so, on the current stream; on a CPU with the same codes and scales, multiplied in fp32.
// Thread-safe; throws libtorch's exceptions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace fresco {

inline constexpr int64_t kFp8HeadDim = 64;  // of the only heads that there are kernels for

// Whether Fp8Attention takes heads on this device, in this type: on a CPU all, on a GPU those in bf16 and fp16 where
// the library of kernels is there. That the GPU computes FP8 is its caller's to know; one that does not is an
// exception.
bool HasFp8Attention(const at::Device& device, at::ScalarType type);

// softmax(q k^T / 8) v, of [B, heads, N, 64] each, where HasFp8Attention. Returns [B, N, heads * 64]. On a CPU a
// sample's result is the same bit for bit in any batch. A NaN or an infinity makes NaN at least what it would reach in
// attention.
at::Tensor Fp8Attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// Bytes of its codes and scales while it computes.
int64_t Fp8AttentionBytes(int64_t samples, int64_t heads, int64_t tokens);

}  // namespace fresco
