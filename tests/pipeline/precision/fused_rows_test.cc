// What lies between linears, on the CPU: codes as libtorch would make them, products of codes as products of tokens.
#include "pipeline/precision/fused_rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/layer_norm.h>
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

#include "pipeline/precision/quantized_linear.h"

namespace fresco {
namespace {

constexpr int64_t kBatch = 2, kTokens = 19, kWidth = 192;

struct Param {
  LinearScheme scheme;
  at::ScalarType type;
};

void PrintTo(const Param& param, std::ostream* out) {
  *out << SchemeName(param.scheme) << " " << c10::toString(param.type);
}

class FusedRows : public ::testing::TestWithParam<Param> {
 protected:
  at::Tensor Random(at::IntArrayRef shape) const { return at::randn(shape).to(GetParam().type); }
  bool fp8() const { return IsFp8(GetParam().scheme); }
  double Largest() const { return fp8() ? 448 : 127; }
  RowQuantization Dynamic() const { return {GetParam().scheme, {}, true, {}, false}; }

  // `rows` are the codes of these values (fp32), with a scale for each token.
  void ExpectCodesOf(const QuantizedRows& rows, const at::Tensor& wide) const {
    const at::Tensor scale = wide.abs().amax({-1}) / Largest();
    EXPECT_TRUE(rows.scale.equal(scale.view({-1})));
    const at::Tensor scaled = (wide * scale.reciprocal().unsqueeze(-1)).clamp(-Largest(), Largest());
    const at::Tensor codes = fp8() ? scaled.to(at::kFloat8_e4m3fn) : scaled.round().to(at::kChar);
    EXPECT_EQ(rows.codes.scalar_type(), codes.scalar_type());
    EXPECT_TRUE(rows.codes.view(at::kByte).equal(codes.view(at::kByte)));
  }

  const c10::InferenceMode inference_;
};

TEST_P(FusedRows, CodesAreLibtorchs) {
  const at::Tensor x = Random({kBatch, kTokens, kWidth});
  const QuantizedRows rows = QuantizeRows(x, Dynamic());
  EXPECT_EQ(rows.dtype, GetParam().type);
  ExpectCodesOf(rows, x.to(at::kFloat));
}

TEST_P(FusedRows, ASliceOfTheTokensIsQuantisedAsItsCopy) {
  const at::Tensor slice = Random({kBatch, kTokens + 5, kWidth}).narrow(1, 3, kTokens);
  ExpectCodesOf(QuantizeRows(slice, Dynamic()), slice.to(at::kFloat));
}

TEST_P(FusedRows, AMultiplierComesFirst) {
  const at::Tensor x = Random({kBatch, kTokens, kWidth});
  RowQuantization quantization = Dynamic();
  quantization.multiplier = at::rand({kWidth}) + 0.5;
  ExpectCodesOf(QuantizeRows(x, quantization), x.to(at::kFloat) * quantization.multiplier);
}

TEST_P(FusedRows, GeluComesBeforeTheCodes) {
  const at::Tensor x = Random({kBatch, kTokens, kWidth});
  ExpectCodesOf(GeluQuantize(x, Dynamic()), at::gelu(x, "tanh").to(at::kFloat));
}

TEST_P(FusedRows, AFixedScaleIsGuardedOrCounted) {
  at::Tensor x = Random({1, 3, kWidth}).clamp(-1, 1);
  x[0][1][7] = 100;
  x[0][1][8] = -100;
  x[0][2][0] = std::numeric_limits<float>::quiet_NaN();
  const float fixed = static_cast<float>(2 / Largest());
  RowQuantization quantization{GetParam().scheme, fixed, true, {}, true};
  const QuantizedRows guarded = QuantizeRows(x, quantization);
  EXPECT_EQ(guarded.scale[0].item<float>(), fixed);
  EXPECT_EQ(guarded.scale[1].item<float>(), static_cast<float>(100 / Largest()));
  EXPECT_TRUE(guarded.scale[2].isnan().item<bool>());
  EXPECT_EQ(guarded.saturated.item<int64_t>(), 0);
  quantization.guard = false;
  const QuantizedRows clamped = QuantizeRows(x, quantization);
  EXPECT_EQ(clamped.scale[1].item<float>(), fixed);
  EXPECT_EQ(clamped.codes.to(at::kFloat)[0][1][8].item<double>(), -Largest());
  EXPECT_EQ(clamped.saturated.item<int64_t>(), 2);
}

// LayerNorm and modulation in double; the tensors between round.
TEST_P(FusedRows, NormModulateAddsTheBranchFirst) {
  const at::Tensor x = Random({kBatch, kTokens, kWidth}), branch = Random({kBatch, kTokens, kWidth});
  const at::Tensor parts = Random({kBatch, 1, 3 * kWidth});
  const at::Tensor gate = parts.narrow(2, 0, kWidth), scale = parts.narrow(2, kWidth, kWidth),
                   shift = parts.narrow(2, 2 * kWidth, kWidth);
  Residual residual{x, gate, branch};
  const at::Tensor y = NormModulate(&residual, {scale, shift, 1e-6});
  EXPECT_FALSE(residual.branch.defined());
  const at::Tensor sum = x.to(at::kDouble) + gate.to(at::kDouble) * branch.to(at::kDouble);
  const double tolerance = GetParam().type == at::kFloat ? 1e-5 : 2e-2;
  EXPECT_TRUE(at::allclose(residual.x.to(at::kDouble), sum, tolerance, tolerance));
  const at::Tensor normed = at::layer_norm(sum, {kWidth}, {}, {}, 1e-6);
  const at::Tensor expected = normed * (1 + scale.to(at::kDouble)) + shift.to(at::kDouble);
  EXPECT_TRUE(at::allclose(y.to(at::kDouble), expected, 2 * tolerance, 2 * tolerance));

  Residual again{x, gate, branch};
  ExpectCodesOf(NormModulateQuantize(&again, {scale, shift, 1e-6}, Dynamic()), y.to(at::kFloat));
  EXPECT_TRUE(again.x.equal(residual.x));
}

// Of samples of different lengths each has what it has by itself.
TEST_P(FusedRows, PackedSamplesAreThoseThatTheyAreAlone) {
  const PackedRows packed{{5, 1, 19}, {}};
  const at::Tensor x = Random({1, 25, kWidth}), branch = Random({1, 25, kWidth});
  const at::Tensor gate = Random({3, 1, kWidth}), scale = Random({3, 1, kWidth}), shift = Random({3, 1, kWidth});
  Residual together{x, gate, branch, &packed};
  const at::Tensor y = NormModulate(&together, {scale, shift, 1e-6});
  Residual again{x, gate, branch, &packed};
  const QuantizedRows codes = NormModulateQuantize(&again, {scale, shift, 1e-6}, Dynamic());
  ExpectCodesOf(codes, y.to(at::kFloat));
  EXPECT_TRUE(GateResidual({x, gate, branch, &packed}).equal(together.x));
  EXPECT_EQ(together.packed, &packed);
  int64_t first = 0;
  for (int64_t i = 0; i < 3; ++i) {
    const int64_t count = packed.lengths[static_cast<size_t>(i)];
    const auto own = [&](const at::Tensor& all) { return all.narrow(1, first, count); };
    Residual alone{own(x), gate.narrow(0, i, 1), own(branch)};
    EXPECT_TRUE(NormModulate(&alone, {scale.narrow(0, i, 1), shift.narrow(0, i, 1), 1e-6}).equal(own(y))) << i;
    EXPECT_TRUE(alone.x.equal(own(together.x))) << i;
    first += count;
  }
}

TEST_P(FusedRows, AProductOfCodesIsTheProductOfTheirTokens) {
  const at::Tensor x = Random({kBatch, kTokens, kWidth});
  const at::Tensor bias = Random({160});
  const auto scheme = GetParam().scheme;
  auto count = std::make_shared<SaturationCount>();
  for (const bool guard : {true, false}) {
    const InputQuantization input{1e-3f, guard, "layer", count};
    const QuantizedLinear linear(QuantizeWeight(at::randn({160, kWidth}), scheme), bias, scheme, input);
    const at::Tensor expected = linear.Product(x);
    const SaturationCount::Activations once = count->Total();
    EXPECT_TRUE(linear.Product(QuantizeRows(x, linear.input_rows())).equal(expected));
    const SaturationCount::Activations twice = count->Total();
    EXPECT_EQ(twice.elements, once.elements + x.numel());
    EXPECT_EQ(twice.saturated, 2 * once.saturated);
    EXPECT_EQ(once.saturated > 0, !guard);
  }
}

TEST_P(FusedRows, SumsAreScaledAndRoundedOnce) {
  const at::Tensor sums = at::randint(-100000, 100000, {3, kWidth}, at::kInt);
  const at::Tensor rows = at::rand({3}), columns = at::rand({kWidth}), bias = Random({kWidth});
  const at::Tensor exact = sums.to(at::kDouble) * rows.to(at::kDouble).unsqueeze(1) * columns.to(at::kDouble);
  const double rounding = GetParam().type == at::kFloat ? 1e-6 : 0x1p-8;
  const at::Tensor y = DequantizeSums(sums, rows, columns, bias, GetParam().type).to(at::kDouble);
  EXPECT_TRUE(at::allclose(y, exact + bias.to(at::kDouble), rounding, 1e-2));
  const at::Tensor plain = DequantizeSums(sums, rows, columns, {}, GetParam().type).to(at::kDouble);
  EXPECT_TRUE(at::allclose(plain, exact, rounding, 0));
}

INSTANTIATE_TEST_SUITE_P(
    All, FusedRows,
    ::testing::Values(Param{LinearScheme::kFp8, at::kFloat}, Param{LinearScheme::kFp8, at::kBFloat16},
                      Param{LinearScheme::kInt8, at::kFloat}, Param{LinearScheme::kInt8, at::kBFloat16}),
    [](const auto& info) {
      return std::string(SchemeName(info.param.scheme)) + (info.param.type == at::kFloat ? "_fp32" : "_bf16");
    });

// Where no GPU is, none is claimed, and nothing is loaded to find that out.
TEST(RowKernels, AreNotForTheCpu) {
  EXPECT_FALSE(HasRowKernels(at::randn({1, 4, 64}).to(at::kBFloat16)));
  EXPECT_FALSE(HasHeadKernels(at::randn({1, 4, 192}).to(at::kBFloat16), 1));
}

}  // namespace
}  // namespace fresco
