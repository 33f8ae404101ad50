// Attention on a GPU by one of libtorch's kernels: its own choice ("libtorch"), cuDNN's ("cudnn"), FlashAttention
// ("flash"), memory-efficient attention ("efficient"), or two products and a softmax ("math").
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>
#include <vector>

#include "pipeline/precision/device_kernels.h"
#include "pipeline/precision/kernel_choice.h"

namespace fresco {

// softmax(q k^T scale) v over [B, heads, N, d] each → the same shape, heads and tokens in whichever order of memory.
// Nothing for a name that is none of these. Throws libtorch's exceptions, also where the kernel does not take them.
at::Tensor AttentionBy(std::string_view kernel, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                       double scale);

// The same over samples of different lengths, by FlashAttention: [M, heads, d] each, where sample i has the tokens from
// starts[i] to starts[i + 1], at most `longest`; starts [samples + 1] kInt, on their device.
at::Tensor PackedFlashAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& starts,
                                int64_t longest);

// Whether FlashAttention is what was measured to be the fastest for samples of so many tokens.
bool FlashIsFastest(const DeviceKernels& kernels, at::ScalarType type, int64_t heads, int64_t head_dim, int64_t tokens);

// What it is, for the choice.
KernelTask AttentionTask(at::ScalarType type, int64_t heads, int64_t head_dim, int64_t tokens);

// Kernels that may take the task, with random queries, keys and values of a guided image (two samples) that lie as
// models have them, each checked against the first, libtorch's own choice.
std::vector<KernelCandidate> AttentionCandidates(const KernelTask& task, const at::Device& device);

}  // namespace fresco
