// Convolutions in FP8.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "pipeline/precision/quantized_weight.h"
#include "pipeline/precision/saturation.h"

namespace fresco {

struct Fp8ConvOptions {
  std::string name;  // the layer's, for the count
  // Of a sample: whether its scale is its largest magnitude / 448, so that nothing saturates. Otherwise it is 1, as
  // where a model is simply cast to FP8: what is beyond ±448 is clamped.
  bool overflow_guard = true;
  std::shared_ptr<SaturationCount> saturation;  // told of every input; null: nobody asks
};

// y = conv(x, W) + b, W and x in E4M3 with a scale for each output channel of W and one for the sample x. A 1 × 1
// kernel is a linear over the pixels. Immutable and thread-safe.
//
//   y = conv(codes_x, codes_W) * (scale_x * scale_W) + b
//
// No library convolves the codes themselves: their values are convolved in fp32 where x is fp32, else in bf16, which
// holds each of them exactly, with sums in fp32; an output in bf16 is rounded before and after it is scaled. The codes,
// and so what FP8 costs a picture, are the same on every device.
class Fp8Conv {
 public:
  // weight [out, in, k, k] in any floating type; bias [out]. It computes where the bias lies.
  Fp8Conv(const at::Tensor& weight, const at::Tensor& bias, Fp8ConvOptions options);

  // x [1, in, H, W], kFloat, kBFloat16 or kHalf; give it away where it is not needed any more, so that it is gone
  // before the result is there → [1, out, …] in x's type, channels-last. A NaN or infinite x makes a guarded result
  // NaN.
  at::Tensor Convolve(at::Tensor x, int64_t stride, int64_t padding) const;

  int64_t out() const { return weight_.codes.size(0); }
  int64_t kernel() const { return weight_.codes.size(2); }
  int64_t bytes() const { return weight_.bytes() + static_cast<int64_t>(bias_.nbytes()); }
  int64_t outputs() const { return weight_.codes.size(0); }
  int64_t parameters() const { return weight_.codes.numel(); }  // of the kernels
  const Fp8ConvOptions& options() const { return options_; }

 private:
  at::Tensor NewCounter() const;
  at::Tensor ByRows(at::Tensor x, int64_t stride, int64_t padding) const;
  at::Tensor ByAten(at::Tensor x, int64_t stride, int64_t padding) const;
  at::Tensor Sums(const at::Tensor& codes, int64_t stride, int64_t padding) const;
  // Of an input of so many elements, these are beyond ±448.
  void Count(int64_t beyond, int64_t elements) const;
  void CountByAten(const at::Tensor& saturated, int64_t elements) const;

  const Fp8ConvOptions options_;
  const QuantizedWeight weight_;  // codes [out, in, k, k], channels-last
  const at::Tensor bias_;         // [out], kFloat
  const at::Tensor counter_;      // the layer's of options_.saturation's counters; undefined: it tells at once
};

}  // namespace fresco
