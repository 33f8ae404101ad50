// Convolutions in FP8 beside the same in libtorch's own operations, and how saturation is counted.
#include "pipeline/precision/fp8_conv.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <ostream>
#include <string>
#include <utility>

namespace fresco {
namespace {

struct Param {
  at::ScalarType dtype;
  int64_t kernel, stride, padding;
  bool guard;
};

std::string NameOf(const Param& param) {
  return std::string(c10::toString(param.dtype)) + "_" + std::to_string(param.kernel) + "x" +
         std::to_string(param.kernel) + "_stride" + std::to_string(param.stride) +
         (param.guard ? "_guarded" : "_naive");
}

void PrintTo(const Param& param, std::ostream* out) {
  *out << NameOf(param);
}

// What the codes of `x` with this scale, both kFloat, stand for.
at::Tensor Rounded(const at::Tensor& x, const at::Tensor& scale) {
  return at::clamp(x * scale.reciprocal(), -448, 448).to(at::kFloat8_e4m3fn).to(at::kDouble) * scale.to(at::kDouble);
}

class Fp8ConvTest : public ::testing::TestWithParam<Param> {
 protected:
  Fp8Conv Make() const { return Fp8Conv(weight_, bias_, {"layer", GetParam().guard, saturation_}); }

  const c10::InferenceMode inference_;
  const std::shared_ptr<SaturationCount> saturation_ = std::make_shared<SaturationCount>();
  const at::Tensor weight_ = at::randn({24, 20, GetParam().kernel, GetParam().kernel}) * 0.1;
  const at::Tensor bias_ = at::randn({24});
  const at::Tensor x_ = (at::randn({1, 20, 13, 18}) * 300).to(GetParam().dtype);
};

// Sums are in fp32; those of bf16 codes may be rounded to bf16 before and after they are scaled.
TEST_P(Fp8ConvTest, IsWhatTheCodesStandFor) {
  const Param& param = GetParam();
  const at::Tensor x = x_.to(at::kFloat);
  const at::Tensor x_scale = param.guard ? x.abs().amax() / 448 : at::ones({});
  const at::Tensor w_scale = weight_.abs().amax({1, 2, 3}, true) / 448;
  const at::Tensor expected = at::conv2d(Rounded(x, x_scale), Rounded(weight_, w_scale), bias_.to(at::kDouble),
                                         {param.stride, param.stride}, {param.padding, param.padding});
  const at::Tensor y = Make().Convolve(x_, param.stride, param.padding);
  EXPECT_EQ(y.scalar_type(), param.dtype);
  ASSERT_EQ(y.sizes(), expected.sizes());
  const double error = (y.to(at::kDouble) - expected).square().mean().sqrt().item<double>();
  const double size = expected.square().mean().sqrt().item<double>();
  EXPECT_LE(error / size, param.dtype == at::kFloat ? 1e-6 : 4e-3);
}

TEST_P(Fp8ConvTest, CountsWhatSaturates) {
  Make().Convolve(x_, GetParam().stride, GetParam().padding);
  const auto beyond = x_.to(at::kFloat).abs().gt(448).sum().item<int64_t>();
  ASSERT_GT(beyond, 0);
  EXPECT_EQ(saturation_->Total().elements, x_.numel());
  EXPECT_EQ(saturation_->Total().saturated, GetParam().guard ? 0 : beyond);
  EXPECT_EQ(saturation_->Total().guarded, GetParam().guard && GetParam().dtype != at::kHalf ? beyond : 0);
}

TEST_P(Fp8ConvTest, NanIsNotHidden) {
  at::Tensor x = x_.clone();
  x[0][3][5][7] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(at::isnan(Make().Convolve(x, GetParam().stride, GetParam().padding)).any().item<bool>());
}

INSTANTIATE_TEST_SUITE_P(All, Fp8ConvTest,
                         ::testing::Values(Param{at::kFloat, 3, 1, 1, true}, Param{at::kFloat, 3, 2, 0, true},
                                           Param{at::kFloat, 1, 1, 0, true}, Param{at::kFloat, 3, 1, 1, false},
                                           Param{at::kBFloat16, 3, 1, 1, true}, Param{at::kBFloat16, 1, 1, 0, false},
                                           Param{at::kHalf, 3, 1, 1, true}, Param{at::kHalf, 3, 1, 1, false}),
                         [](const auto& info) { return NameOf(info.param); });

TEST(Fp8Conv, OfZerosIsTheBias) {
  const c10::InferenceMode inference;
  const at::Tensor bias = at::randn({4});
  const Fp8Conv conv(at::randn({4, 8, 3, 3}), bias, {"layer", true, nullptr});
  const at::Tensor y = conv.Convolve(at::zeros({1, 8, 5, 5}), 1, 1);
  EXPECT_TRUE(y.eq(bias.view({1, 4, 1, 1})).all().item<bool>());
}

TEST(Fp8Conv, TakesOneSampleAtATime) {
  const c10::InferenceMode inference;
  const Fp8Conv conv(at::randn({4, 8, 3, 3}), at::zeros({4}), {"the layer", true, nullptr});
  try {
    conv.Convolve(at::zeros({2, 8, 5, 5}), 1, 1);
    FAIL() << "took two samples";
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find("the layer"), std::string::npos);
  }
}

}  // namespace
}  // namespace fresco
