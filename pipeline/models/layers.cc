#include "pipeline/models/layers.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsqrt.h>

#include <vector>

namespace fresco {
namespace {

std::optional<at::Tensor> Optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

at::Tensor Product(const Linear& linear, const at::Tensor& x) {
  return at::linear(x, linear.weight, Optional(linear.bias));
}

}  // namespace

at::Tensor Linear::Tokens(const at::Tensor& x) const {
  const int64_t tokens = x.size(1);
  // at::linear adds the bias inside the product of contiguous tokens and after it otherwise, which rounds bf16 once
  // more; a slice of the tokens is contiguous in a batch of one only.
  if (tokens >= kMinTokens) return Product(*this, x.contiguous());
  return Product(*this, at::constant_pad_nd(x, {0, 0, 0, kMinTokens - tokens})).narrow(1, 0, tokens);
}

at::Tensor Linear::Rows(const at::Tensor& x) const {
  const int64_t rows = x.size(0);
  const int64_t padding = (kRows - rows % kRows) % kRows;
  const at::Tensor padded = padding == 0 ? x : at::constant_pad_nd(x, {0, 0, 0, padding});
  if (rows <= kRows) return Product(*this, padded).narrow(0, 0, rows);
  std::vector<at::Tensor> chunks;
  for (int64_t row = 0; row < rows; row += kRows) chunks.push_back(Product(*this, padded.narrow(0, row, kRows)));
  return at::cat(chunks).narrow(0, 0, rows);
}

at::Tensor LayerNorm(const at::Tensor& x, const Norm& norm, double eps) {
  return at::layer_norm(x, {x.size(-1)}, Optional(norm.weight), Optional(norm.bias), eps);
}

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = at::mean(at::pow(wide, 2), {-1}, /*keepdim=*/true).add_(eps).rsqrt_();
  return (wide * scale).to(weight.scalar_type()).mul_(weight);
}

at::Tensor SplitHeads(const at::Tensor& x, int64_t heads) {
  return x.unflatten(-1, {heads, x.size(-1) / heads}).transpose(1, 2);
}

at::Tensor MergeHeads(const at::Tensor& x) {
  return x.transpose(1, 2).flatten(2);
}

}  // namespace fresco
