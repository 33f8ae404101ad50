// Products with quantised weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "pipeline/precision/fused_rows.h"
#include "pipeline/precision/gpu_product.h"
#include "pipeline/precision/quantized_weight.h"
#include "pipeline/precision/saturation.h"
#include "pipeline/precision/scheme.h"

namespace fresco {

// How tokens are brought to codes where a scheme quantises them.
struct InputQuantization {
  // Static: one scale for all tokens, positive and finite. Nothing: each token has its own, its largest magnitude over
  // the type's largest value, with which nothing saturates.
  std::optional<float> scale;
  // Of a static scale: a token that goes beyond it has its own instead. A range that followed what came by would do as
  // well, but then a picture would depend on those before it.
  bool overflow_guard = true;
  std::string layer;  // whose inputs they are, for the count
  // Told of every input; null: nobody asks. Not of what the guard has kept on a GPU: every layer would wait for it.
  std::shared_ptr<SaturationCount> saturation;
  // Of each input channel [in], kFloat: inputs are multiplied by it first, as the weight was divided (SmoothQuant, Xiao
  // et al. 2022: what makes a channel's inputs large moves into its weights). Undefined: 1. Of every scheme.
  at::Tensor multiplier;
};

// y = x W^T + b, W quantised. Immutable and thread-safe.
//
// kFp8 and kInt8 quantise x too, with a scale for each token. Then y = (codes_x codes_w^T) * (scale_x * scale_w) + b:
// the sum in fp32 (exact in int32 for kInt8), then two roundings to fp32 and one to x's type. On a device that does not
// compute FP8 this is emulated in fp32 with the same codes and scales, and differs only in the order of the sum.
//
// The weight-only schemes expand the weight a piece at a time, so that no more than the piece is ever there in full.
class QuantizedLinear {
 public:
  // `bias` [out] of any floating type, or undefined. `kernels`: which to take on a GPU; null: nothing was measured.
  QuantizedLinear(QuantizedWeight weight, at::Tensor bias, LinearScheme scheme, InputQuantization input = {},
                  std::shared_ptr<const DeviceKernels> kernels = nullptr);

  // given [B, N, in], kFloat, kBFloat16 or kHalf, B at least 1 → [B, N, out] in its type. On the CPU
  // each sample's result is the same, bit for bit, in any batch. A token with a NaN or an infinity gives NaN.
  at::Tensor Product(const at::Tensor& given) const;

  // x [B, in], on the CPU, of a weight-only scheme → [B, out]: for few rows, each computed by itself, so that its
  // result is the same in any batch. The weight is read once, and no product of matrices has to lay it out first.
  at::Tensor Rows(const at::Tensor& x) const;
  bool ComputesRows() const { return weight_.codes.is_cpu() && !QuantisesActivations(scheme_); }

  // The same of tokens that are codes already, made as input_rows() says (fused_rows.h); kFp8 and kInt8 alone.
  at::Tensor Product(const QuantizedRows& rows) const;
  RowQuantization input_rows() const;

  // Whether all tokens have the one static scale, whatever they hold.
  static bool HasOneScale(const InputQuantization& input) { return input.scale.has_value() && !input.overflow_guard; }

  // Whether `device` multiplies codes [.., in] by codes [out, in]. On a GPU _scaled_mm and _int_mm take multiples of 16
  // and 8 alone; other weights can be stored as codes there, not computed.
  static bool MultipliesCodes(const at::Device& device, LinearScheme scheme, int64_t in, int64_t out);

  const QuantizedWeight& weight() const { return weight_; }
  LinearScheme scheme() const { return scheme_; }

 private:
  struct Tokens;
  bool MaySaturate() const;
  at::Tensor NewCounter() const;
  at::Tensor NewUnit() const;
  // Of inputs of so many elements, these are beyond a static scale.
  void Count(int64_t beyond, int64_t elements) const;
  Tokens Quantize(const at::Tensor& rows) const;
  at::Tensor Multiplied(const at::Tensor& x) const;
  at::Tensor ExpandedOnCpu(const at::Tensor& x, int64_t samples) const;
  at::Tensor ExpandedOnGpu(const at::Tensor& x) const;
  at::Tensor Fp8OnCpu(const Tokens& tokens, int64_t samples, at::ScalarType type) const;
  at::Tensor Int8OnCpu(const Tokens& tokens, at::ScalarType type) const;
  at::Tensor OnGpu(const QuantizedRows& rows) const;

  const QuantizedWeight weight_;
  const at::Tensor bias_;
  const LinearScheme scheme_;
  const InputQuantization input_;
  const std::shared_ptr<const DeviceKernels> kernels_;
  const at::Tensor counter_;  // the layer's of input_.saturation's counters, where it counts on a GPU; else undefined
  const at::Tensor one_;      // CodesProduct's
};

}  // namespace fresco
