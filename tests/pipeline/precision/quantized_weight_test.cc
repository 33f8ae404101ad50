#include "pipeline/precision/quantized_weight.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/exp2.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/log2.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/round.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

namespace fresco {
namespace {

// libtorch's own operations: scale = absmax / limit of each row, codes = clamp(w / scale).to(type).
QuantizedWeight InTorch(const at::Tensor& weight, LinearScheme scheme) {
  const double limit = IsFp8(scheme) ? 448 : 127;
  const at::Tensor wide = weight.to(at::kFloat);
  const at::Tensor scale = wide.abs().amax({1}) / limit;
  const at::Tensor codes = (wide * scale.reciprocal().unsqueeze(1)).clamp(-limit, limit);
  return {IsFp8(scheme) ? codes.to(at::kFloat8_e4m3fn) : codes.round().to(at::kChar), scale};
}

class EveryScheme : public ::testing::TestWithParam<LinearScheme> {
 private:
  const c10::InferenceMode inference_;
};

TEST_P(EveryScheme, GivesTheCodesOfLibtorchsOwnOperations) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor weight = (at::randn({37, 65}) * at::randn({37, 1}).exp()).to(type);
    const QuantizedWeight ours = QuantizeWeight(weight, GetParam()), torch = InTorch(weight, GetParam());
    EXPECT_TRUE(at::equal(ours.scale, torch.scale)) << type;
    EXPECT_EQ(ours.codes.scalar_type(), torch.codes.scalar_type());
    EXPECT_TRUE(at::equal(ours.codes.view(at::kByte), torch.codes.view(at::kByte))) << type;
    EXPECT_EQ(ours.bytes(), 37 * 65 + 37 * 4);
  }
}

TEST_P(EveryScheme, ComesBackWithinHalfAStep) {
  const at::Tensor weight = at::randn({16, 256});
  const QuantizedWeight quantized = QuantizeWeight(weight, GetParam());
  const at::Tensor error = (Dequantize(quantized, at::kFloat) - weight).abs();
  // E4M3 has three bits of mantissa, half a step of which is 1/16 of the value, and 2^-10 scales below 2^-6 of them.
  const at::Tensor bound = IsFp8(GetParam()) ? weight.abs() / 16 + quantized.scale.unsqueeze(1) * 0x1p-10
                                             : quantized.scale.unsqueeze(1) * 0.5 + weight.abs() * 1e-6;
  EXPECT_TRUE((error <= bound).all().item<bool>());
}

TEST_P(EveryScheme, ARowOfZerosStaysZero) {
  const QuantizedWeight quantized = QuantizeWeight(at::zeros({2, 32}), GetParam());
  EXPECT_TRUE(at::equal(Dequantize(quantized, at::kFloat), at::zeros({2, 32})));
}

TEST_P(EveryScheme, StacksExactly) {
  const at::Tensor a = at::randn({8, 32}), b = at::randn({24, 32}) * 100;
  const QuantizedWeight whole = QuantizeWeight(at::cat({a, b}), GetParam());
  const QuantizedWeight stacked = Stack({QuantizeWeight(a, GetParam()), QuantizeWeight(b, GetParam())});
  EXPECT_TRUE(at::equal(whole.codes.view(at::kByte), stacked.codes.view(at::kByte)));
  EXPECT_TRUE(at::equal(whole.scale, stacked.scale));
}

TEST_P(EveryScheme, NeighboursInMemoryAreStackedWithoutACopy) {
  const QuantizedWeight whole = QuantizeWeight(at::randn({24, 32}), GetParam());
  const QuantizedWeight first{whole.codes.narrow(0, 0, 8), whole.scale.narrow(0, 0, 8)};
  const QuantizedWeight second{whole.codes.narrow(0, 8, 16), whole.scale.narrow(0, 8, 16)};
  const QuantizedWeight stacked = Stack({first, second});
  EXPECT_EQ(stacked.codes.const_data_ptr(), whole.codes.const_data_ptr());
  EXPECT_TRUE(at::equal(stacked.codes.view(at::kByte), whole.codes.view(at::kByte)));
  EXPECT_NE(Stack({second, first}).codes.const_data_ptr(), whole.codes.const_data_ptr());
}

INSTANTIATE_TEST_SUITE_P(Schemes, EveryScheme,
                         ::testing::Values(LinearScheme::kFp8, LinearScheme::kFp8WeightOnly, LinearScheme::kInt8,
                                           LinearScheme::kInt8WeightOnly));

// Rows of all codes, with scales that bring one code's product next to the middle of two bfloat16.
TEST(Dequantize, RoundsOnceToBFloat16) {
  const c10::InferenceMode inference;
  constexpr int64_t kRows = 4096, kCodes = 126;
  const at::Tensor code = at::arange(1, kCodes + 1, at::kByte);
  const at::Tensor codes = code.expand({kRows, kCodes}).contiguous().view(at::kFloat8_e4m3fn);
  const at::Tensor middle = 1 + (at::randint(0, 128, {kRows}) + 0.5) / 128;
  const at::Tensor value = codes[0].to(at::kFloat).index_select(0, at::randint(0, kCodes, {kRows}, at::kLong));
  const QuantizedWeight weight{codes, middle / value};
  const at::Tensor exact = codes.to(at::kDouble) * weight.scale.to(at::kDouble).unsqueeze(1);
  const at::Tensor half_step = (exact.log2().floor() - 8).exp2();
  const auto is_nearest = [&](const at::Tensor& rounded) {
    return ((rounded.to(at::kDouble) - exact).abs() <= half_step).all().item<bool>();
  };
  EXPECT_TRUE(is_nearest(Dequantize(weight, at::kBFloat16)));
  EXPECT_FALSE(is_nearest((codes.to(at::kFloat) * weight.scale.unsqueeze(1)).to(at::kBFloat16)));  // twice
}

}  // namespace
}  // namespace fresco
