#include "pipeline/precision/quantized_linear.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/round.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <ostream>
#include <string>

namespace fresco {
namespace {

constexpr int64_t kIn = 192, kOut = 160;

struct Param {
  LinearScheme scheme;
  at::ScalarType type;
};

void PrintTo(const Param& param, std::ostream* out) {
  *out << SchemeName(param.scheme) << (param.type == at::kFloat ? " fp32" : " bf16");
}

// Tokens of very different sizes, as they come.
at::Tensor Tokens(int64_t samples, int64_t tokens, int64_t width, at::ScalarType type) {
  return (at::randn({samples, tokens, width}) * (at::randn({samples, tokens, 1}) * 2).exp()).to(type);
}

// What libtorch's own operations make of a row: values of codes in double, and scales.
struct Codes {
  at::Tensor values, scale;
};
Codes QuantizeInTorch(const at::Tensor& rows, bool fp8) {
  const double limit = fp8 ? 448 : 127;
  const at::Tensor wide = rows.to(at::kFloat);
  const at::Tensor scale = wide.abs().amax({-1}, true) / limit;
  const at::Tensor codes = (wide * scale.reciprocal()).clamp(-limit, limit);
  return {fp8 ? codes.to(at::kFloat8_e4m3fn).to(at::kDouble) : codes.round().to(at::kDouble), scale.to(at::kDouble)};
}

class Scheme : public ::testing::TestWithParam<Param> {
 protected:
  LinearScheme scheme() const { return GetParam().scheme; }
  at::ScalarType type() const { return GetParam().type; }
  double UnitRoundoff() const { return type() == at::kFloat ? 0x1p-24 : 0x1p-8; }

  // In double: the products of the codes, times the scales, plus the bias; and the sum of magnitudes, of which rounding
  // errors are parts.
  void ExpectProductOfTheCodes(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& multiplier) const {
    const bool fp8 = IsFp8(scheme()), quantises = QuantisesActivations(scheme());
    const Codes w = QuantizeInTorch(weight, fp8);
    const at::Tensor scaled_w = w.values * w.scale;
    const at::Tensor wide = multiplier.defined() ? x.to(at::kFloat) * multiplier : x;
    const Codes in = quantises ? QuantizeInTorch(wide, fp8) : Codes{wide.to(at::kDouble), at::full({1}, 1.0)};
    const at::Tensor values = in.values * in.scale, bias = bias_.to(at::kDouble);
    const at::Tensor expected = at::matmul(values, scaled_w.t()) + bias;
    const at::Tensor magnitude = at::matmul(values.abs(), scaled_w.abs().t()) + bias.abs();
    InputQuantization input;
    input.multiplier = multiplier;
    const QuantizedLinear linear(QuantizeWeight(weight, scheme()), bias_, scheme(), input);
    const at::Tensor y = linear.Product(x);
    ASSERT_EQ(y.scalar_type(), type());
    ASSERT_EQ(y.sizes(), expected.sizes());
    // fp32 sums of these products err by less than 8 units of the magnitude; then the result is rounded to its type. A
    // weight that is expanded to bf16 is rounded as well, as is what a multiplier makes of the tokens, and so is x w in
    // the worst case.
    const double rounded = quantises ? 0 : (multiplier.defined() ? 2 : 1) * UnitRoundoff();
    const at::Tensor bound =
        magnitude * (8 * 0x1p-24 + rounded) + expected.abs() * (quantises ? 1 : 2) * UnitRoundoff();
    const auto excess = [&](const at::Tensor& product) {
      return ((product.to(at::kDouble) - expected).abs() - bound).amax().item<double>();
    };
    EXPECT_LE(excess(y), 0);
    if (!linear.ComputesRows()) return;
    const at::Tensor rows = linear.Rows(x.flatten(0, 1));
    ASSERT_EQ(rows.scalar_type(), type());
    EXPECT_LE(excess(rows.view(expected.sizes())), 0);
  }

  const c10::InferenceMode inference_;
  const at::Tensor weight_ = at::randn({kOut, kIn});
  const at::Tensor bias_ = at::randn({kOut}).to(type());
};

TEST_P(Scheme, IsTheProductOfTheCodes) {
  ExpectProductOfTheCodes(Tokens(2, 21, kIn, type()), weight_, {});
}

// The weight is expanded in more than one piece.
TEST_P(Scheme, IsTheProductOfTheCodesOfLongRowsToo) {
  ExpectProductOfTheCodes(Tokens(2, 5, 8192, type()), at::randn({kOut, 8192}), {});
}

// Rounded to bf16, neither the multiplier nor the product with it would be what becomes codes.
TEST_P(Scheme, AMultiplierComesBeforeTheCodes) {
  ExpectProductOfTheCodes(Tokens(2, 21, kIn, type()), weight_, at::rand({kIn}) + 0.5);
}

TEST_P(Scheme, ASampleIsTheSameInAnyBatch) {
  const QuantizedLinear linear(QuantizeWeight(weight_, scheme()), bias_, scheme());
  const int before = at::get_num_threads();
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    for (const int64_t tokens : {16, 21, 154}) {
      const at::Tensor x = Tokens(5, tokens, kIn, type());
      const at::Tensor together = linear.Product(x);
      for (int64_t i = 0; i < x.size(0); ++i) {
        EXPECT_TRUE(at::equal(linear.Product(x.narrow(0, i, 1))[0], together[i])) << tokens << " tokens, sample " << i;
      }
    }
    if (!linear.ComputesRows()) continue;
    const at::Tensor rows = Tokens(1, 5, kIn, type())[0], together = linear.Rows(rows);
    for (int64_t i = 0; i < rows.size(0); ++i) {
      EXPECT_TRUE(at::equal(linear.Rows(rows.narrow(0, i, 1))[0], together[i])) << "row " << i;
    }
  }
  at::set_num_threads(before);
}

TEST_P(Scheme, WithoutABias) {
  const QuantizedLinear linear(QuantizeWeight(weight_, scheme()), at::Tensor(), scheme());
  const QuantizedLinear with_zeros(QuantizeWeight(weight_, scheme()), at::full({kOut}, 0.0).to(type()), scheme());
  const at::Tensor x = Tokens(1, 16, kIn, type());
  EXPECT_TRUE(at::equal(linear.Product(x), with_zeros.Product(x)));
}

TEST_P(Scheme, ANaNStaysInItsToken) {
  const QuantizedLinear linear(QuantizeWeight(weight_, scheme()), bias_, scheme());
  at::Tensor x = Tokens(1, 16, kIn, type());
  const at::Tensor clean = linear.Product(x);
  x[0][3][7] = std::numeric_limits<double>::quiet_NaN();
  const at::Tensor y = linear.Product(x);
  EXPECT_TRUE(y[0][3].isnan().all().item<bool>());
  EXPECT_TRUE(at::equal(y[0][2], clean[0][2]));
  EXPECT_TRUE(at::equal(y[0][4], clean[0][4]));
}

INSTANTIATE_TEST_SUITE_P(
    All, Scheme,
    ::testing::Values(Param{LinearScheme::kFp8, at::kFloat}, Param{LinearScheme::kFp8, at::kBFloat16},
                      Param{LinearScheme::kFp8WeightOnly, at::kFloat},
                      Param{LinearScheme::kFp8WeightOnly, at::kBFloat16}, Param{LinearScheme::kInt8, at::kFloat},
                      Param{LinearScheme::kInt8, at::kBFloat16}, Param{LinearScheme::kInt8WeightOnly, at::kFloat},
                      Param{LinearScheme::kInt8WeightOnly, at::kBFloat16}));

// As in fp32, but for a rounding of the tokens and one of the result.
TEST(Fp16, IsComputedOnTheCpuToo) {
  const c10::InferenceMode inference;
  const at::Tensor x = at::randn({2, 16, kIn}).to(at::kHalf), bias = at::randn({kOut}).to(at::kHalf);
  InputQuantization input;
  input.multiplier = at::full({kIn}, 0.25);
  for (const LinearScheme scheme : {LinearScheme::kFp8, LinearScheme::kFp8WeightOnly, LinearScheme::kInt8}) {
    const QuantizedLinear linear(QuantizeWeight(at::randn({kOut, kIn}), scheme), bias, scheme, input);
    const at::Tensor y = linear.Product(x);
    EXPECT_EQ(y.scalar_type(), at::kHalf);
    EXPECT_TRUE(at::allclose(y.to(at::kFloat), linear.Product(x.to(at::kFloat)), 0x1p-10, 1e-3)) << SchemeName(scheme);
  }
}

// The largest sums that Stable Diffusion 3.5 Large's feed-forward can have. Where a processor multiplies signed by
// unsigned bytes alone, pairs of these leave 16 bits.
TEST(Int8, SumsAreExact) {
  const c10::InferenceMode inference;
  constexpr int64_t kLong = 9728;
  const at::Tensor codes = at::randint(-127, 128, {32, kLong}, at::kLong);
  codes.narrow(0, 0, 8).fill_(127);
  codes.narrow(0, 8, 8).fill_(-127);
  const at::Tensor weights = at::randint(-127, 128, {48, kLong}, at::kLong);
  weights.narrow(0, 0, 8).fill_(127);
  weights.narrow(0, 8, 8).fill_(-127);
  const QuantizedLinear linear({weights.to(at::kChar), at::full({48}, 1.0f)}, at::Tensor(), LinearScheme::kInt8);
  at::Tensor x = codes.to(at::kFloat);
  x.select(1, 0).fill_(127);  // so that every token's scale is 1
  const at::Tensor expected = at::matmul(x.to(at::kLong), weights.t());
  EXPECT_TRUE(at::equal(linear.Product(x.unsqueeze(0))[0], expected.to(at::kFloat)));
}

// Of tokens of which the second goes far beyond a static scale of 0.02 (8.96 for FP8).
class StaticScale : public ::testing::Test {
 protected:
  at::Tensor Input() const {
    at::Tensor x = x_.clone();
    x[0][1][5] = 30;
    return x;
  }
  QuantizedLinear Linear(bool overflow_guard) const {
    return {weight_, at::Tensor(), LinearScheme::kFp8, InputQuantization{0.02f, overflow_guard, "ff.net.2", count_}};
  }
  // codes * scale, times the weight, in double.
  at::Tensor Expected(const at::Tensor& x, const at::Tensor& scale) const {
    const at::Tensor codes = (x / scale).clamp(-448, 448).to(at::kFloat8_e4m3fn).to(at::kDouble);
    return at::matmul(codes * scale.to(at::kDouble), Dequantize(weight_, at::kDouble).t());
  }
  static bool Close(const at::Tensor& y, const at::Tensor& expected) {
    return at::allclose(y.to(at::kDouble), expected, 1e-4, 1e-5);
  }

  const c10::InferenceMode inference_;
  const QuantizedWeight weight_ = QuantizeWeight(at::randn({32, 64}), LinearScheme::kFp8);
  const at::Tensor x_ = at::randn({1, 16, 64});
  const std::shared_ptr<SaturationCount> count_ = std::make_shared<SaturationCount>();
};

TEST_F(StaticScale, IsUsedInPlaceOfTheTokensOwn) {
  EXPECT_TRUE(Close(Linear(true).Product(x_), Expected(x_, at::full({1}, 0.02f))));
  EXPECT_EQ(count_->Total().elements, x_.numel());
  EXPECT_EQ(count_->Total().saturated, 0);
}

TEST_F(StaticScale, TheGuardGivesATokenBeyondItItsOwn) {
  at::Tensor scale = at::full({1, 16, 1}, 0.02f);
  scale[0][1][0] = 30.0f / 448;
  EXPECT_TRUE(Close(Linear(true).Product(Input()), Expected(Input(), scale)));
  EXPECT_EQ(count_->Total().saturated, 0);
  EXPECT_EQ(count_->Total().guarded, 1);
}

TEST_F(StaticScale, WithoutAGuardItSaturatesAndTheLayerIsNamed) {
  EXPECT_TRUE(Close(Linear(false).Product(Input()), Expected(Input(), at::full({1}, 0.02f))));
  ASSERT_EQ(count_->Worst(5).size(), 1U);
  EXPECT_EQ(count_->Worst(5)[0].name, "ff.net.2");
  EXPECT_EQ(count_->Worst(5)[0].activations.saturated, 1);
  EXPECT_EQ(count_->Worst(5)[0].activations.elements, x_.numel());
}

TEST_F(StaticScale, ANaNIsNeverClampedAway) {
  at::Tensor x = x_.clone();
  x[0][2][0] = std::numeric_limits<double>::infinity();
  for (const LinearScheme scheme : {LinearScheme::kFp8, LinearScheme::kInt8}) {
    for (const bool guard : {true, false}) {
      const QuantizedLinear linear(QuantizeWeight(at::randn({32, 64}), scheme), at::Tensor(), scheme,
                                   {0.02f, guard, "", nullptr});
      EXPECT_TRUE(linear.Product(x)[0][2].isnan().all().item<bool>()) << SchemeName(scheme) << guard;
    }
  }
}

// What cuBLASLt demands of _scaled_mm and _int_mm (docs/facts/fp8.md, "libtorch").
TEST(MultipliesCodes, AGpuTakesMultiplesAlone) {
  const at::Device cpu(at::kCPU), gpu(at::kCUDA, 0);
  EXPECT_TRUE(QuantizedLinear::MultipliesCodes(gpu, LinearScheme::kFp8, 32, 48));
  EXPECT_FALSE(QuantizedLinear::MultipliesCodes(gpu, LinearScheme::kFp8, 24, 48));
  EXPECT_FALSE(QuantizedLinear::MultipliesCodes(gpu, LinearScheme::kFp8, 32, 40));
  EXPECT_TRUE(QuantizedLinear::MultipliesCodes(gpu, LinearScheme::kInt8, 24, 40));
  EXPECT_FALSE(QuantizedLinear::MultipliesCodes(gpu, LinearScheme::kInt8, 24, 42));
  EXPECT_TRUE(QuantizedLinear::MultipliesCodes(cpu, LinearScheme::kFp8, 1, 3));
}

}  // namespace
}  // namespace fresco
