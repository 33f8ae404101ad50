#include "pipeline/models/layers.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>

#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/models/cpu_attention.h"
#include "pipeline/models/gpu_attention.h"
#include "pipeline/precision/device_kernels.h"
#include "pipeline/precision/quantized_linear.h"
#include "pipeline/precision/row_independence.h"

namespace fresco {
namespace {

std::optional<at::Tensor> Optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

// oneDNN's linear has no C++ declaration; it is reached by its name, as the compiler of torch.compile does.
at::Tensor PackWeight(const at::Tensor& weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                             .typed<at::Tensor(const at::Tensor&, std::optional<int64_t>)>();
  return op.call(weight, std::nullopt);
}

at::Tensor PackedProduct(const Linear& linear, const at::Tensor& x) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                            c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>)>();
  return op.call(x, linear.weight, Optional(linear.bias), "none", c10::List<std::optional<at::Scalar>>(), "");
}

template <typename Op>
at::Tensor ForEachPart(const Linear& linear, const Op& op) {
  std::vector<at::Tensor> results;
  for (const Linear& part : *linear.parts) results.push_back(op(part));
  return at::cat(results, -1);
}

at::Tensor Product(const Linear& linear, const at::Tensor& x) {
  if (linear.parts != nullptr) return ForEachPart(linear, [&](const Linear& part) { return Product(part, x); });
  if (linear.quantized != nullptr) return linear.quantized->Product(x.unsqueeze(0)).squeeze(0);
  if (linear.weight.is_mkldnn()) return PackedProduct(linear, x);
  return at::linear(x, linear.weight, Optional(linear.bias));
}

at::Tensor ProductOfTokens(const Linear& linear, const at::Tensor& x) {
  if (linear.parts != nullptr) return ForEachPart(linear, [&](const Linear& part) { return ProductOfTokens(part, x); });
  if (linear.quantized != nullptr) return linear.quantized->Product(x);
  // Nothing is promised on a GPU yet.
  if (x.size(0) == 1 || !x.is_cpu() || RowsAreIndependent(x.scalar_type())) return Product(linear, x);
  std::vector<at::Tensor> samples;
  for (int64_t i = 0; i < x.size(0); ++i) samples.push_back(Product(linear, x.narrow(0, i, 1)));
  return at::cat(samples);
}

}  // namespace

Linear Linear::Pack() const {
  return {PackWeight(weight), bias, nullptr, nullptr, tap};
}

bool Linear::CanPack(at::Device device, at::ScalarType dtype) {
  if (!device.is_cpu() || (dtype != at::kFloat && dtype != at::kBFloat16)) return false;
  try {
    const Linear tiny{at::ones({1, 1}, at::TensorOptions(dtype)), {}, nullptr, nullptr};
    tiny.Pack().Rows(tiny.weight);
    return true;
  } catch (const c10::Error&) {  // this build or this processor has no oneDNN for the type
    return false;
  }
}

at::Tensor Linear::Tokens(const at::Tensor& x) const {
  if (tap != nullptr) {
    at::Tensor product = tap->probe->Visit(*this, x.contiguous());
    if (product.defined()) return product;
  }
  const int64_t tokens = x.size(1);
  if (quantized != nullptr && !x.is_cpu()) return quantized->Product(x);  // which takes few tokens, and slices of them
  // at::linear adds the bias inside the product of contiguous tokens and after it otherwise, which rounds bf16 once
  // more; a slice of the tokens is contiguous in a batch of one only.
  if (tokens >= kMinTokens) return ProductOfTokens(*this, x.contiguous());
  const at::Tensor padded = at::constant_pad_nd(x, {0, 0, 0, kMinTokens - tokens});
  return ProductOfTokens(*this, padded).narrow(1, 0, tokens);
}

at::Tensor Linear::Rows(const at::Tensor& x) const {
  if (tap != nullptr) {
    const at::Tensor product = tap->probe->Visit(*this, x.contiguous().unsqueeze(0));
    if (product.defined()) return product.squeeze(0);
  }
  if (quantized != nullptr && quantized->ComputesRows()) return quantized->Rows(x);
  if (!x.is_cpu()) return Product(*this, x);  // where nothing is promised, and each product reads all weights
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

namespace {

template <typename Op>
at::Tensor& ForEachSample(at::Tensor& x, const Op& op) {
  for (int64_t i = 0; i < x.size(0); ++i) {
    at::Tensor sample = x.select(0, i);
    op(sample);
  }
  return x;
}

// With one sample of one head ATen gives the products inside it all threads, otherwise one each: the last bits may
// differ.
bool OneTask(const at::Tensor& q) {
  return q.is_cpu() && q.size(0) == 1 && q.size(1) == 1;
}

at::Tensor Twice(const at::Tensor& x) {
  return x.expand({2, -1, -1, -1});
}

double ScaleOf(const at::Tensor& q, const AttentionOptions& options) {
  return options.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))));
}

// By the kernel that was measured to be the fastest; undefined where none was.
at::Tensor MeasuredAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const AttentionOptions& options) {
  if (options.kernels == nullptr || options.bias.defined() || options.causal) return {};
  const std::string* const kernel =
      options.kernels->choices.WinnerOf(AttentionTask(q.scalar_type(), q.size(1), q.size(3), q.size(2)));
  return kernel == nullptr ? at::Tensor() : AttentionBy(*kernel, q, k, v, ScaleOf(q, options));
}

}  // namespace

at::Tensor& GeluTanh(at::Tensor& x) {
  return ForEachSample(x, [](at::Tensor& sample) { at::gelu_(sample, "tanh"); });
}

at::Tensor& GeluErf(at::Tensor& x) {
  return ForEachSample(x, [](at::Tensor& sample) { at::gelu_(sample); });
}

at::Tensor& QuickGelu(at::Tensor& x) {
  return ForEachSample(x, [](at::Tensor& sample) { sample.mul_(at::sigmoid(sample * 1.702)); });
}

at::Tensor& Silu(at::Tensor& x) {
  return ForEachSample(x, [](at::Tensor& sample) { at::silu_(sample); });
}

at::Tensor Attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionOptions& options) {
  if (!options.bias.defined() && !options.causal && AttentionOnCpuTakes(q, k, v))
    return AttentionOnCpu(q, k, v, ScaleOf(q, options));
  if (OneTask(q)) return Attention(Twice(q), Twice(k), Twice(v), options).narrow(0, 0, 1);
  at::Tensor mixed = MeasuredAttention(q, k, v, options);
  if (!mixed.defined()) {
    mixed = at::scaled_dot_product_attention(q, k, v, Optional(options.bias), /*dropout_p=*/0.0, options.causal,
                                             options.scale);
  }
  return mixed.transpose(1, 2).flatten(2);
}

}  // namespace fresco
