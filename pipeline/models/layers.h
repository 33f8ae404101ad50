// The layers that the models are made of: their weights and what they compute. Everything is a thin word over ATen.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace fresco {

struct DeviceKernels;  // precision/device_kernels.h
class LinearProbe;
class QuantizedLinear;
class SaturationCount;

// Who is told what linears are given; null: nobody. All thread-safe.
struct LinearObservers {
  std::shared_ptr<LinearProbe> probe;           // all of it
  std::shared_ptr<SaturationCount> saturation;  // of quantised ones: how much was beyond their type
};

// Where a linear tells a probe what it is given.
struct LinearTap {
  // The linears that it holds, by their names in the checkpoint, and how many of the outputs are each one's.
  std::vector<std::string> layers;
  std::vector<int64_t> outputs;
  std::shared_ptr<LinearProbe> probe;
};

// y = x W^T + b.
struct Linear {
  at::Tensor weight;  // [out, in]; perhaps in oneDNN's own layout (see Pack); undefined where quantized is set
  at::Tensor bias;    // [out], or undefined
  std::shared_ptr<const QuantizedLinear> quantized;  // with its own bias
  // Several of one input, whose outputs follow each other in the last dimension; all else is undefined then. For what
  // would be one linear if it were not stored in different ways.
  std::shared_ptr<const std::vector<Linear>> parts;
  std::shared_ptr<const LinearTap> tap = nullptr;  // null but for calibration

  bool defined() const { return weight.defined() || quantized != nullptr || parts != nullptr; }

  // x [B, N, in] → [B, N, out]: a product over the tokens of every sample. A sample's result is the same, bit for bit,
  // in any batch: with fewer than kMinTokens they are padded, because the kernels for few rows differ; and where the
  // kernels' results are not known to be independent of the number of rows, each sample is a product of its own.
  at::Tensor Tokens(const at::Tensor& x) const;

  // x [B, in] → [B, out]: one row per sample. Computed in chunks of exactly kRows rows, padded with zeros, so that a
  // row's result does not depend on how many others there are (docs/facts/fp8.md, Batch invariance); quantised weights
  // multiply each row by itself on a CPU.
  at::Tensor Rows(const at::Tensor& x) const;

  // The same linear with its weight laid out for oneDNN, so that no product has to do it again: measured on a processor
  // with AVX-512, at 1 thread, twice as fast in fp32 as at::linear (which goes to MKL) and a tenth in bf16; with few
  // rows, more. Only on a CPU, and where CanPack.
  Linear Pack() const;
  static bool CanPack(at::Device device, at::ScalarType dtype);

  static constexpr int64_t kMinTokens = 16;
  static constexpr int64_t kRows = 4;  // a guided image is two rows; up to here a row costs next to nothing in bf16
};

// Sees what linears are given, and may compute in their place; for calibration. Called by whoever computes the model,
// so that only one thread may do so at a time.
class LinearProbe {
 public:
  virtual ~LinearProbe() = default;
  // `linear`, whose tap it is, is given x [B, N, in], contiguous; rows of samples are [1, B, in]. Returns the product
  // [B, N, out] to go on with, or undefined for the linear's own.
  virtual at::Tensor Visit(const Linear& linear, const at::Tensor& x) = 0;
};

// Affine part of a normalisation; RMS norms have no bias.
struct Norm {
  at::Tensor weight;  // [D]
  at::Tensor bias;    // [D], or undefined
};

// A square kernel.
struct Conv {
  at::Tensor weight;  // [out, in, k, k]
  at::Tensor bias;    // [out]
};

// LayerNorm over the last dimension; `norm` with undefined tensors: without affine part.
at::Tensor LayerNorm(const at::Tensor& x, const Norm& norm, double eps);

// x / rms(x) * weight over the last dimension, the mean in fp32 and the result in the weight's type, as diffusers and
// transformers compute it.
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps);

// Activations, in place, of x [B, …], contiguous. Each sample on its own: ATen computes the ends of what it hands to a
// thread by another formula than the rest (scalar, not vectors), so that in one call over the batch the last bits of a
// sample would depend on where in it the sample lies.
at::Tensor& GeluTanh(at::Tensor& x);
at::Tensor& GeluErf(at::Tensor& x);
at::Tensor& QuickGelu(at::Tensor& x);  // x sigmoid(1.702 x)
at::Tensor& Silu(at::Tensor& x);

// softmax(q k^T scale + bias) v, over [B, heads, N, d] each; bias [1, heads, N, N] or undefined, scale 1/sqrt(d) where
// none is given. Returns [B, N, heads * d].
struct AttentionOptions {
  at::Tensor bias;
  std::optional<double> scale;
  bool causal = false;
  // On a GPU, without bias and not causal: knows the fastest kernel (gpu_attention.h). Null: libtorch chooses.
  const DeviceKernels* kernels = nullptr;
};
at::Tensor Attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const AttentionOptions& options = {});

// [B, N, heads * d] → [B, heads, N, d], a view.
at::Tensor SplitHeads(const at::Tensor& x, int64_t heads);

}  // namespace fresco
