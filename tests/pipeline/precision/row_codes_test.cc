// Scales and codes by libtorch's operations beside the row kernels' arithmetic, which they stand in for.
#include "pipeline/precision/row_codes.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <limits>
#include <string>

namespace fresco {
namespace {

constexpr int64_t kWidth = 96;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class ByTensors : public ::testing::TestWithParam<LinearScheme> {
 protected:
  float Largest() const { return LargestCode(GetParam()); }

  const c10::InferenceMode inference_;
};

// Also of next to nothing, down to the last float, and on either side of the smallest scale.
TEST_P(ByTensors, FiniteRowsHaveTheKernelsScalesAndCodes) {
  at::Tensor x = at::randn({8, kWidth});
  x[1].zero_();
  x[2] = at::zeros({kWidth});
  x[2][5] = 0x1p-149f;
  x[3].mul_(1e-40);
  x[4].clamp_(-1, 1).mul_(0.999 * Largest() * double{kernels::kSmallestScale});
  x[5].clamp_(-1, 1).mul_(Largest() * double{kernels::kSmallestScale})[7] = Largest() * kernels::kSmallestScale;
  x[6][9] = FLT_MAX;
  const at::Tensor scale = ScalesByTensors(x, GetParam());
  const at::Tensor codes = CodesByTensors(x, scale.reciprocal(), GetParam()).view(at::kByte);
  for (int64_t row = 0; row < x.size(0); ++row) {
    const float expected = kernels::RowScale(x[row].abs().max().item<float>(), Largest());
    EXPECT_EQ(scale[row].item<float>(), expected) << row;
    const float inverse = kernels::InverseScale(expected);
    for (int64_t i = 0; i < kWidth; ++i) {
      const float value = x[row][i].item<float>();
      const auto code = IsFp8(GetParam()) ? kernels::E4M3Code(value, inverse)
                                          : static_cast<uint8_t>(kernels::Int8Code(value, inverse));
      ASSERT_EQ(codes[row][i].item<uint8_t>(), code) << row << " " << value;
    }
  }
}

TEST_P(ByTensors, ARowThatIsNotFiniteHasTheScaleNaN) {
  at::Tensor x = at::randn({3, kWidth});
  x[0][3] = kInfinity;
  x[1][4] = -kInfinity;
  x[2][5] = kNaN;
  EXPECT_TRUE(ScalesByTensors(x, GetParam()).isnan().all().item<bool>());
}

INSTANTIATE_TEST_SUITE_P(All, ByTensors, ::testing::Values(LinearScheme::kFp8, LinearScheme::kInt8),
                         [](const auto& info) { return std::string(SchemeName(info.param)); });

}  // namespace
}  // namespace fresco
