// Attention on a CPU that multiplies bf16 in hardware. There libtorch's computes both products in fp32 unless the
// processor has tiles (AMX), and they take most of its time.
#pragma once

#include <ATen/core/Tensor.h>

namespace fresco {

// Whether AttentionOnCpu takes these: kBFloat16 on a CPU with packed products, heads of an even width, each head's row
// in one piece.
bool AttentionOnCpuTakes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// softmax(q k^T scale) v over [B, heads, N, d] each (k and v [B, heads, M, d]); returns [B, N, heads * d]. Scores and
// sums are in fp32, the weights of the softmax are rounded to bf16 in between, as in libtorch's. A head's result is the
// same bit for bit whatever the batch and the number of threads.
at::Tensor AttentionOnCpu(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale);

}  // namespace fresco
