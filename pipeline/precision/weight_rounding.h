// Rounds a weight to codes so that its products change least, rather than the weight itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "pipeline/precision/quantized_weight.h"
#include "pipeline/precision/scheme.h"

namespace fresco {

// Of what a linear is given: what decides which errors of its weight matter. Sums over tokens.
class InputMoments {
 public:
  explicit InputMoments(int64_t in);

  // x [rows, in], of any floating type and device.
  void Add(const at::Tensor& x);

  int64_t rows() const { return rows_; }
  at::Tensor Mean() const;    // [in], kFloat
  at::Tensor Second() const;  // E[x xᵀ], [in, in], kFloat
  at::Tensor AbsMax() const;  // [in], kFloat

  static int64_t Bytes(int64_t in) { return (in * in + in) * static_cast<int64_t>(sizeof(float)); }

 private:
  at::Tensor second_, sum_, absmax_;  // kFloat
  int64_t rows_ = 0;
};

struct RoundedWeight {
  QuantizedWeight weight;
  // [in], kFloat: what inputs are multiplied by, as the weight was divided (InputQuantization); undefined: 1.
  at::Tensor input_multiplier;
  at::Tensor
      bias;  // [out], kFloat: with what the rounding takes from the products on average; undefined without a bias
};

// weight [out, in], bias [out] or undefined, of any floating type, on the CPU; `scheme` other than kHigh. Each row's
// scale is the best of some, then each column is rounded in turn, the most powerful first, and its error made up for by
// the columns not yet rounded (Frantar et al. 2022, GPTQ). `damping`, as a share of the mean channel's power, is added
// to every channel's: against moments of too few tokens. For kInt8, whose steps are the same for small and large
// inputs, large channels are made smaller first, and their weights larger. Throws libtorch's exceptions.
RoundedWeight RoundWeight(const at::Tensor& weight, const at::Tensor& bias, LinearScheme scheme,
                          const InputMoments& moments, double damping);

}  // namespace fresco
