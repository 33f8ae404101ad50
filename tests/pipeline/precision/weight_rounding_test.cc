#include "pipeline/precision/weight_rounding.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/inverse.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scalar_tensor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "pipeline/precision/quantized_linear.h"

namespace fresco {
namespace {

constexpr double kDamping = 0.05;

at::Tensor Normal(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::TensorOptions(at::kFloat));
}

// Tokens whose channels hang together and differ in power, around a mean, as those of a network are.
at::Tensor Tokens(int64_t rows, int64_t in) {
  const at::Tensor mixed = Normal({rows, in}, 1).mm(Normal({in, in}, 2) + 3 * at::eye(in)) / std::sqrt(in);
  return mixed + Normal({in}, 3);
}

InputMoments MomentsOf(const at::Tensor& x) {
  InputMoments moments(x.size(1));
  const int64_t half = x.size(0) / 2;
  moments.Add(x.narrow(0, 0, half));
  moments.Add(x.narrow(0, half, x.size(0) - half));
  return moments;
}

at::Tensor Smoothed(const at::Tensor& x, const RoundedWeight& rounded) {
  return rounded.input_multiplier.defined() ? x * rounded.input_multiplier : x;
}

double ProductError(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                    const RoundedWeight& rounded) {
  const at::Tensor exact = at::linear(x, weight, bias);
  const at::Tensor low = at::linear(Smoothed(x, rounded), Dequantize(rounded.weight, at::kFloat), rounded.bias);
  return (exact - low).square().mean().item<double>();
}

TEST(InputMomentsTest, AreMeansOverTokens) {
  const at::Tensor x = Tokens(100, 6);
  const InputMoments moments = MomentsOf(x);
  EXPECT_EQ(moments.rows(), 100);
  EXPECT_LT((moments.Mean() - x.mean({0})).abs().max().item<float>(), 1e-5);
  EXPECT_LT((moments.Second() - x.t().mm(x) / 100).abs().max().item<float>(), 1e-4);
}

// Optimal brain surgery as it is derived (Hassibi and Stork 1993; Frantar and Alistarh 2022, algorithm 3 in a fixed
// order): the inverse of H is carried along, and loses a row and a column with each weight that is fixed.
std::vector<double> RoundedByElimination(std::vector<double> row, at::Tensor inverse, double scale,
                                         const std::vector<int64_t>& order) {
  std::vector<double> codes(row.size());
  for (const int64_t k : order) {
    const double code = at::scalar_tensor(std::clamp(row[k] / scale, -448.0, 448.0), at::kFloat)
                            .to(at::kFloat8_e4m3fn)
                            .to(at::kFloat)
                            .item<double>();
    codes[k] = code;
    const double error = (row[k] - code * scale) / inverse[k][k].item<double>();
    for (size_t j = 0; j < row.size(); ++j) row[j] -= error * inverse[k][static_cast<int64_t>(j)].item<double>();
    inverse = inverse - inverse.select(1, k).unsqueeze(1).mm(inverse[k].unsqueeze(0)) / inverse[k][k];
  }
  return codes;
}

TEST(WeightRoundingTest, MakesUpForEachErrorAsDerived) {
  constexpr int64_t kIn = 12, kOut = 5;
  const at::Tensor x = Tokens(200, kIn), weight = Normal({kOut, kIn}, 4);
  const InputMoments moments = MomentsOf(x);
  const RoundedWeight rounded = RoundWeight(weight, {}, LinearScheme::kFp8, moments, kDamping);
  at::Tensor h = moments.Second().to(at::kDouble);
  const at::Tensor descending = at::argsort(h.diagonal(), 0, /*descending=*/true);
  h = h + at::eye(kIn, at::kDouble) * (h.diagonal().mean() * kDamping);
  std::vector<int64_t> order;
  for (int64_t i = 0; i < kIn; ++i) order.push_back(descending[i].item<int64_t>());
  for (int64_t r = 0; r < kOut; ++r) {
    std::vector<double> row;
    for (int64_t k = 0; k < kIn; ++k) row.push_back(weight[r][k].item<double>());
    const std::vector<double> expected =
        RoundedByElimination(row, at::inverse(h), rounded.weight.scale[r].item<double>(), order);
    for (int64_t k = 0; k < kIn; ++k)
      EXPECT_EQ(rounded.weight.codes[r][k].to(at::kFloat).item<double>(), expected[static_cast<size_t>(k)])
          << r << " " << k;
  }
}

// A channel with inputs of a hundred times the others' leaves the others few of int8's steps.
TEST(WeightRoundingTest, Int8MovesLargeInputsIntoTheWeight) {
  at::Tensor x = Tokens(2000, 32);
  x.select(1, 5).mul_(100);
  const at::Tensor weight = Normal({16, 32}, 4);
  const RoundedWeight rounded = RoundWeight(weight, {}, LinearScheme::kInt8, MomentsOf(x), kDamping);
  ASSERT_TRUE(rounded.input_multiplier.defined());
  EXPECT_LT(rounded.input_multiplier[5].item<float>(), 0.5 * rounded.input_multiplier.median().item<float>());
  const QuantizedLinear plain(QuantizeWeight(weight, LinearScheme::kInt8), {}, LinearScheme::kInt8);
  InputQuantization input;
  input.multiplier = rounded.input_multiplier;
  const QuantizedLinear smooth(rounded.weight, {}, LinearScheme::kInt8, input);
  const at::Tensor exact = at::linear(x, weight), batch = x.unsqueeze(0);
  const auto error = [&](const QuantizedLinear& linear) {
    return (linear.Product(batch)[0] - exact).square().mean().item<double>();
  };
  EXPECT_LT(error(smooth), 0.25 * error(plain));
}

class Schemes : public ::testing::TestWithParam<LinearScheme> {};
INSTANTIATE_TEST_SUITE_P(All, Schemes, ::testing::Values(LinearScheme::kFp8, LinearScheme::kInt8));

// Over several blocks of columns, on tokens that were not seen.
TEST_P(Schemes, ProductsChangeMuchLessThanByRoundingToTheNearest) {
  constexpr int64_t kIn = 200, kOut = 64;
  const at::Tensor x = Tokens(4000, kIn), weight = Normal({kOut, kIn}, 4) / 10, bias = Normal({kOut}, 5);
  const RoundedWeight rounded = RoundWeight(weight, bias, GetParam(), MomentsOf(x.narrow(0, 0, 3000)), kDamping);
  EXPECT_EQ(rounded.weight.codes.scalar_type(), IsFp8(GetParam()) ? at::kFloat8_e4m3fn : at::kChar);
  EXPECT_EQ(rounded.weight.codes.sizes(), weight.sizes());
  const at::Tensor unseen = x.narrow(0, 3000, 1000);
  const RoundedWeight nearest{QuantizeWeight(weight, GetParam()), {}, bias};
  EXPECT_LT(ProductError(unseen, weight, bias, rounded), 0.6 * ProductError(unseen, weight, bias, nearest));
}

TEST_P(Schemes, TheBiasTakesWhatRoundingTakesOnAverage) {
  const at::Tensor x = Tokens(500, 30), weight = Normal({8, 30}, 6), bias = Normal({8}, 7);
  const RoundedWeight rounded = RoundWeight(weight, bias, GetParam(), MomentsOf(x), kDamping);
  const at::Tensor error = at::linear(x, weight, bias) -
                           at::linear(Smoothed(x, rounded), Dequantize(rounded.weight, at::kFloat), rounded.bias);
  EXPECT_LT(error.mean({0}).abs().max().item<float>(), 1e-5);
  EXPECT_GT(error.abs().max().item<float>(), 1e-3);
}

TEST_P(Schemes, RowsOfZerosAndChannelsThatNeverSpeakAreNoTrouble) {
  at::Tensor x = Tokens(100, 16), weight = Normal({4, 16}, 8);
  x.select(1, 3).zero_();
  weight[2].zero_();
  weight[1].zero_();
  weight[1][0] = 1e-43;  // what training has left of a row that does nothing
  const RoundedWeight rounded = RoundWeight(weight, {}, GetParam(), MomentsOf(x), 0.01);
  EXPECT_FALSE(rounded.bias.defined());
  const at::Tensor values = Dequantize(rounded.weight, at::kFloat);
  EXPECT_TRUE(values.isfinite().all().item<bool>());
  EXPECT_TRUE(values[2].eq(0).all().item<bool>());
}

}  // namespace
}  // namespace fresco
