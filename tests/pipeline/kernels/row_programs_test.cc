// The row kernels' arithmetic, executed on the CPU, against libtorch in double precision; codes and scales bit for bit.
#include "pipeline/kernels/row_programs.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "pipeline/kernels/cpu/row_kernels.h"
#include "tests/pipeline/kernels/host_rows.h"

namespace fresco::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

template <typename Type>
struct Element;
template <>
struct Element<BFloat16> {
  static constexpr at::ScalarType kType = at::kBFloat16;
  static constexpr double kRounding = 0x1p-8;  // relative, of a store
};
template <>
struct Element<Float16> {
  static constexpr at::ScalarType kType = at::kHalf;
  static constexpr double kRounding = 0x1p-11;
};

template <typename Type>
class RowPrograms : public ::testing::Test {
 protected:
  at::Tensor Random(at::IntArrayRef shape, double scale = 1) {
    return (at::randn(shape, generator_, at::TensorOptions()) * scale).to(Element<Type>::kType);
  }

  // `actual`, of Type's elements, is `exact` (double) computed in fp32 and rounded once.
  static void ExpectRounded(const at::Tensor& actual, const at::Tensor& exact) {
    const at::Tensor error = (actual.to(at::kDouble) - exact).abs();
    const at::Tensor allowed = exact.abs() * (Element<Type>::kRounding * 1.01) + 1e-5;
    EXPECT_TRUE((error <= allowed).all().item<bool>()) << "by " << (error - allowed).max().item<double>();
  }

  at::Generator generator_ = at::make_generator<at::CPUGeneratorImpl>(7);
};

using Types = ::testing::Types<BFloat16, Float16>;
struct Names {
  template <typename Type>
  static std::string GetName(int) {
    return Element<Type>::kType == at::kHalf ? "fp16" : "bf16";
  }
};
TYPED_TEST_SUITE(RowPrograms, Types, Names);

// SD3.5's widths (Medium's and Large's, then those of their feed-forwards), the demo's, and those at the edges.
const std::vector<int64_t> kWidths = {8, 64, 256, 264, 1032, 1536, 2432, 6144, 9728, kMaxRowWidth};

RowShape ShapeOf(const at::Tensor& x, int64_t rows_per_sample = 1) {
  return {x.size(0), rows_per_sample, static_cast<int32_t>(x.size(1))};
}

// Codes and scales of a [rows, width] result, poisoned: what is not written is seen.
struct Codes {
  Codes(const at::Tensor& x, RowFormat format)
      : values(at::full(x.sizes(), 0x55, at::TensorOptions(at::kByte))), scale(at::full({x.size(0)}, -1.0)) {
    out.format = format;
    out.values = values.data_ptr();
    out.scales = scale.template mutable_data_ptr<float>();
  }

  // Against libtorch's: the scale absmax / largest, the codes those of x * (1 / scale).
  void ExpectOf(const at::Tensor& wide) const {
    const bool e4m3 = out.format == RowFormat::kE4M3;
    const double largest = e4m3 ? 448 : 127;
    const at::Tensor scales = wide.abs().amax({1}) / largest;
    EXPECT_TRUE(scale.equal(scales));
    const at::Tensor scaled = wide * scales.reciprocal().unsqueeze(1);
    const at::Tensor expected = e4m3 ? scaled.clamp(-448, 448).to(at::kFloat8_e4m3fn).view(at::kByte)
                                     : scaled.round().clamp(-127, 127).to(at::kChar).view(at::kByte);
    EXPECT_TRUE(values.equal(expected));
  }

  at::Tensor values, scale;
  RowOutput out;
};

TYPED_TEST(RowPrograms, CodesAndScalesAreLibtorchs) {
  for (const int64_t width : kWidths) {
    SCOPED_TRACE(width);
    const at::Tensor x = this->Random({3, width});
    for (const RowFormat format : {RowFormat::kE4M3, RowFormat::kInt8}) {
      Codes codes(x, format);
      RunOnHost<TypeParam>(RowJob{ShapeOf(x), x.data_ptr(), 1, false, codes.out});
      codes.ExpectOf(x.to(at::kFloat));
    }
  }
}

TYPED_TEST(RowPrograms, AMultiplierComesBeforeTheScale) {
  const at::Tensor x = this->Random({4, 264});
  const at::Tensor multiplier = at::rand({264}) + 0.5;
  for (const RowFormat format : {RowFormat::kE4M3, RowFormat::kInt8}) {
    Codes codes(x, format);
    codes.out.multiplier = multiplier.const_data_ptr<float>();
    RunOnHost<TypeParam>(RowJob{ShapeOf(x), x.data_ptr(), 1, false, codes.out});
    codes.ExpectOf(x.to(at::kFloat) * multiplier);
  }
}

// As many as a small picture has tokens, in two samples: none has its neighbour's modulation, scale or place.
TYPED_TEST(RowPrograms, ManyRowsAreEachOnesOwn) {
  constexpr int64_t kRows = 602, kWidth = 1536;
  const at::Tensor x = this->Random({kRows, kWidth}), vectors = this->Random({2, 2 * kWidth}, 0.3);
  Codes all(x, RowFormat::kE4M3), modulated(x, RowFormat::kE4M3);
  RunOnHost<TypeParam>(RowJob{ShapeOf(x), x.data_ptr(), 1, false, all.out});
  all.ExpectOf(x.to(at::kFloat));

  NormModulateJob job;
  job.shape = ShapeOf(x, kRows / 2);
  job.x = x.data_ptr();
  job.eps = 1e-6f;
  job.scale = {vectors.data_ptr(), 2 * kWidth};
  job.shift = {vectors.narrow(1, kWidth, kWidth).data_ptr(), 2 * kWidth};
  job.out = modulated.out;
  RunOnHost<TypeParam>(job);
  Codes apart(x, RowFormat::kE4M3);
  for (int64_t row = 0; row < kRows; ++row) {
    const auto of_sample = [&](const at::Tensor& all) { return SampleVectors{all[row / (kRows / 2)].data_ptr(), 0}; };
    NormModulateJob own = job;
    own.shape = {1, 1, kWidth};
    own.x = x[row].data_ptr();
    own.scale = of_sample(vectors);
    own.shift = of_sample(vectors.narrow(1, kWidth, kWidth));
    own.out.values = apart.values[row].data_ptr();
    own.out.scales = apart.scale[row].template mutable_data_ptr<float>();
    RunOnHost<TypeParam>(own);
  }
  EXPECT_TRUE(modulated.values.equal(apart.values));
  EXPECT_TRUE(modulated.scale.equal(apart.scale));
}

TYPED_TEST(RowPrograms, SamplesMayLieApart) {
  const at::Tensor x = this->Random({2, 7, 64}), slice = x.narrow(1, 2, 3);
  const at::Tensor out = at::full({2, 3, 64}, kNaN, x.options());
  RowJob job{{6, 3, 64}, slice.data_ptr(), 7, false, {}};
  job.out.values = out.data_ptr();
  RunOnHost<TypeParam>(job);
  EXPECT_TRUE(out.equal(slice));
}

TYPED_TEST(RowPrograms, ARowOfZerosHasScaleOne) {
  const at::Tensor x = at::zeros({1, 64}, at::TensorOptions(Element<TypeParam>::kType));
  Codes codes(x, RowFormat::kE4M3);
  RunOnHost<TypeParam>(RowJob{ShapeOf(x), x.data_ptr(), 1, false, codes.out});
  EXPECT_EQ(codes.scale.template item<float>(), 1);
  EXPECT_TRUE((codes.values == 0).all().template item<bool>());
}

// As the CPU's kernels do it, which libtorch's casts are the reference of.
TYPED_TEST(RowPrograms, RowsThatAreNotFiniteHaveTheCpuKernelsCodes) {
  for (const float odd : {kInfinity, -kInfinity, kNaN}) {
    at::Tensor x = this->Random({2, 256});
    x[1][77] = odd;
    const at::Tensor wide = x.to(at::kFloat);
    for (const RowFormat format : {RowFormat::kE4M3, RowFormat::kInt8}) {
      Codes codes(x, format);
      RunOnHost<TypeParam>(RowJob{ShapeOf(x), x.data_ptr(), 1, false, codes.out});
      EXPECT_FALSE(codes.scale[0].isnan().template item<bool>());
      EXPECT_TRUE(codes.scale[1].isnan().template item<bool>());
      std::vector<uint8_t> expected(256);
      const std::span<const float> row(wide.const_data_ptr<float>() + 256, 256);
      if (format == RowFormat::kE4M3) {
        QuantizeE4M3(row, kNaN, expected.data());
      } else {
        QuantizeInt8(row, kNaN, reinterpret_cast<int8_t*>(expected.data()));
      }
      const auto* actual = codes.values.template const_data_ptr<uint8_t>() + 256;
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), actual)) << odd;
    }
  }
}

TYPED_TEST(RowPrograms, AFixedScaleSaturatesAndCountsIt) {
  at::Tensor x = at::zeros({3, 64}, at::TensorOptions(Element<TypeParam>::kType));
  x[0][3] = 224;  // the last that fits: 0.5 * 448
  x[1][0] = -300;
  x[1][63] = 1000;
  x[2][8] = kNaN;  // not saturated: NaN
  x[2][9] = 1000;
  Codes codes(x, RowFormat::kE4M3);
  unsigned long long saturated = 5;
  codes.out.fixed_scale = 0.5;
  codes.out.saturated = &saturated;
  RunOnHost<TypeParam>(RowJob{ShapeOf(x), x.data_ptr(), 1, false, codes.out});
  EXPECT_TRUE((codes.scale.narrow(0, 0, 2) == 0.5).all().template item<bool>());
  EXPECT_TRUE(codes.scale[2].isnan().template item<bool>());
  EXPECT_EQ(codes.values[0][3].template item<int>(), 0x7e);  // 448
  EXPECT_EQ(codes.values[1][0].template item<int>(), 0xfe);  // -448
  EXPECT_EQ(codes.values[1][63].template item<int>(), 0x7e);
  EXPECT_EQ(codes.values[2][8].template item<int>() & 0x7f, 0x7f);
  EXPECT_EQ(saturated, 5u + 2u);
}

TYPED_TEST(RowPrograms, TheGuardGivesRowsThatWouldSaturateTheirOwnScale) {
  at::Tensor x = at::zeros({3, 64}, at::TensorOptions(Element<TypeParam>::kType));
  x[0][3] = 224;
  x[1][0] = -896;
  x[2][8] = kNaN;
  Codes codes(x, RowFormat::kE4M3);
  unsigned long long saturated = 0;
  codes.out.fixed_scale = 0.5;
  codes.out.guard = true;
  codes.out.saturated = &saturated;
  RunOnHost<TypeParam>(RowJob{ShapeOf(x), x.data_ptr(), 1, false, codes.out});
  EXPECT_EQ(codes.scale[0].template item<float>(), 0.5);
  EXPECT_EQ(codes.scale[1].template item<float>(), 2);
  EXPECT_TRUE(codes.scale[2].isnan().template item<bool>());
  EXPECT_EQ(codes.values[1][0].template item<int>(), 0xfe);
  EXPECT_EQ(saturated, 0u);
}

// Two samples of three rows; modulations are slices of one wider row for each sample.
TYPED_TEST(RowPrograms, NormModulateIsLayerNormAndModulation) {
  for (const int64_t width : kWidths) {
    SCOPED_TRACE(width);
    // An offset, which one pass over squares would lose the deviation by.
    const at::Tensor x = (this->Random({6, width}, 0.5).to(at::kFloat) + 8).to(Element<TypeParam>::kType);
    const at::Tensor modulations = this->Random({2, 3 * width}, 0.3);
    const at::Tensor shift = modulations.narrow(1, width, width), scale = modulations.narrow(1, 2 * width, width);
    NormModulateJob job;
    job.shape = ShapeOf(x, 3);
    job.x = x.data_ptr();
    job.scale = {scale.data_ptr(), scale.stride(0)};
    job.shift = {shift.data_ptr(), shift.stride(0)};
    job.eps = 1e-6f;

    const at::Tensor normed = at::layer_norm(x.to(at::kDouble), {width}, {}, {}, 1e-6).view({2, 3, width});
    const at::Tensor exact =
        (normed * (1 + scale.to(at::kDouble).unsqueeze(1)) + shift.to(at::kDouble).unsqueeze(1)).view({6, width});
    const at::Tensor plain = at::full_like(x, kNaN);
    job.out.values = plain.data_ptr();
    RunOnHost<TypeParam>(job);
    this->ExpectRounded(plain, exact);

    // Through the codes: half a step of E4M3's mantissa away at most, or of the smallest step.
    Codes codes(x, RowFormat::kE4M3);
    job.out = codes.out;
    RunOnHost<TypeParam>(job);
    const at::Tensor scales = codes.scale.to(at::kDouble).unsqueeze(1);
    EXPECT_TRUE(at::allclose(scales, exact.abs().amax({1}, true) / 448, 1e-5));
    const at::Tensor back = codes.values.view(at::kFloat8_e4m3fn).to(at::kDouble) * scales;
    EXPECT_TRUE(((back - exact).abs() <= exact.abs() * (0x1p-4 + 1e-4) + scales * (0x1p-10 + 1e-4))
                    .all()
                    .template item<bool>());
  }
}

TYPED_TEST(RowPrograms, ABranchIsAddedBeforeTheNorm) {
  for (const int64_t width : {int64_t{264}, int64_t{1536}, int64_t{2432}}) {
    SCOPED_TRACE(width);
    const at::Tensor x = this->Random({4, width}), branch = this->Random({4, width}), gate = this->Random({2, width});
    const at::Tensor zeros = at::zeros({1, width}, x.options());
    NormModulateJob job;
    job.shape = ShapeOf(x, 2);
    job.x = x.data_ptr();
    job.scale = job.shift = {zeros.data_ptr(), 0};
    job.eps = 1e-6f;
    const at::Tensor fused = at::full_like(x, kNaN), sum = at::full_like(x, kNaN);
    job.branch = branch.data_ptr();
    job.gate = {gate.data_ptr(), width};
    job.sum = sum.data_ptr();
    job.out.values = fused.data_ptr();
    RunOnHost<TypeParam>(job);

    const at::Tensor exact =
        x.to(at::kDouble) +
        (branch.to(at::kDouble).view({2, 2, width}) * gate.to(at::kDouble).unsqueeze(1)).view({4, width});
    this->ExpectRounded(sum, exact);
    const at::Tensor separate_sum = at::full_like(x, kNaN), separate = at::full_like(x, kNaN);
    RunOnHost<TypeParam>(
        GateResidualJob{job.shape, x.data_ptr(), branch.data_ptr(), job.gate, separate_sum.data_ptr()});
    EXPECT_TRUE(sum.equal(separate_sum));
    job.branch = nullptr;
    job.x = sum.data_ptr();
    job.out.values = separate.data_ptr();
    RunOnHost<TypeParam>(job);
    EXPECT_TRUE(fused.equal(separate));
  }
}

// Samples of one, four and two rows, each as it is by itself.
TYPED_TEST(RowPrograms, SamplesOfDifferentLengthsHaveTheirOwnModulations) {
  constexpr int64_t kWidth = 264, kRows = 7;
  const std::vector<int64_t> lengths = {1, 4, 2};
  const std::vector<int32_t> sample_of_row = {0, 1, 1, 1, 1, 2, 2};
  const at::Tensor x = this->Random({kRows, kWidth}), branch = this->Random({kRows, kWidth});
  const at::Tensor gate = this->Random({3, kWidth}), scale = this->Random({3, kWidth}),
                   shift = this->Random({3, kWidth});
  const auto job_of = [&](int64_t first, int64_t count, int64_t sample, const at::Tensor& sum, const at::Tensor& out) {
    const auto row = [&](const at::Tensor& all) { return all[first].data_ptr(); };
    const auto vectors = [&](const at::Tensor& all) { return SampleVectors{all[sample].data_ptr(), kWidth}; };
    NormModulateJob job;
    job.shape = {count, count, kWidth};
    job.x = row(x);
    job.branch = row(branch);
    job.gate = vectors(gate);
    job.sum = row(sum);
    job.scale = vectors(scale);
    job.shift = vectors(shift);
    job.eps = 1e-6f;
    job.out.values = row(out);
    return job;
  };
  const auto poisoned = [&] { return at::full_like(x, kNaN); };
  const at::Tensor sum = poisoned(), out = poisoned(), gated = poisoned(), own_sum = poisoned(), own_out = poisoned();
  NormModulateJob together = job_of(0, kRows, 0, sum, out);
  together.shape.sample_of_row = sample_of_row.data();
  RunOnHost<TypeParam>(together);
  RunOnHost<TypeParam>(GateResidualJob{together.shape, together.x, together.branch, together.gate, gated.data_ptr()});
  int64_t first = 0;
  for (size_t sample = 0; sample < lengths.size(); ++sample) {
    RunOnHost<TypeParam>(job_of(first, lengths[sample], static_cast<int64_t>(sample), own_sum, own_out));
    first += lengths[sample];
  }
  EXPECT_TRUE(out.equal(own_out));
  EXPECT_TRUE(sum.equal(own_sum));
  EXPECT_TRUE(gated.equal(own_sum));
}

TYPED_TEST(RowPrograms, GeluComesBeforeTheCodes) {
  for (const int64_t width : kWidths) {
    SCOPED_TRACE(width);
    const at::Tensor x = this->Random({2, width}, 2);
    const at::Tensor plain = at::full_like(x, kNaN);
    RowOutput out;
    out.values = plain.data_ptr();
    RunOnHost<TypeParam>(RowJob{ShapeOf(x), x.data_ptr(), 1, true, out});
    this->ExpectRounded(plain, at::gelu(x.to(at::kDouble), "tanh"));
    at::Tensor wide = x.to(at::kFloat);
    for (int64_t i = 0; i < wide.numel(); ++i)
      wide.mutable_data_ptr<float>()[i] = GeluTanhOf(wide.data_ptr<float>()[i]);
    for (const RowFormat format : {RowFormat::kE4M3, RowFormat::kInt8}) {
      Codes codes(x, format);
      RunOnHost<TypeParam>(RowJob{ShapeOf(x), x.data_ptr(), 1, true, codes.out});
      codes.ExpectOf(wide);
    }
  }
}

TYPED_TEST(RowPrograms, HeadsAreNormalisedAndMoved) {
  for (const int64_t dim : {8, 64, 256}) {
    SCOPED_TRACE(dim);
    constexpr int64_t kSamples = 2, kTokens = 3, kHeads = 5, kOutTokens = 7, kFirst = 2;
    const at::Tensor qkv = this->Random({kSamples, kTokens, 3, kHeads, dim}, 3);
    const at::Tensor norm_q = this->Random({dim}), norm_k = this->Random({dim});
    const at::Tensor out = at::full({kSamples, kOutTokens, 3, kHeads, dim}, -7, qkv.options());
    NormHeadsJob job{kSamples * kTokens,
                     kTokens,
                     kHeads,
                     static_cast<int32_t>(dim),
                     qkv.data_ptr(),
                     norm_q.data_ptr(),
                     norm_k.data_ptr(),
                     1e-6f,
                     out.data_ptr(),
                     kOutTokens,
                     kFirst};
    RunOnHost<TypeParam>(job);
    const at::Tensor wide = qkv.to(at::kDouble);
    const at::Tensor normed = wide * (wide.square().mean({-1}, true) + 1e-6).rsqrt();
    const at::Tensor moved = out.narrow(1, kFirst, kTokens);
    this->ExpectRounded(moved.select(2, 0), normed.select(2, 0) * norm_q.to(at::kDouble));
    this->ExpectRounded(moved.select(2, 1), normed.select(2, 1) * norm_k.to(at::kDouble));
    EXPECT_TRUE(moved.select(2, 2).equal(qkv.select(2, 2)));
    EXPECT_TRUE((out.narrow(1, 0, kFirst) == -7).all().template item<bool>());
    EXPECT_TRUE((out.narrow(1, kFirst + kTokens, 2) == -7).all().template item<bool>());

    const at::Tensor in_place = qkv.clone();
    job.qkv = in_place.data_ptr();
    job.out = in_place.data_ptr();
    job.out_tokens = kTokens;
    job.first_token = 0;
    RunOnHost<TypeParam>(job);
    EXPECT_TRUE(in_place.equal(moved));
  }
}

TYPED_TEST(RowPrograms, HeadsOfSamplesOfDifferentLengthsGoWhereTheyAreTold) {
  constexpr int64_t kRows = 5, kHeads = 3, kDim = 64, kOut = 9;
  const std::vector<int32_t> out_rows = {8, 0, 1, 5, 4};
  const at::Tensor qkv = this->Random({kRows, 3, kHeads, kDim}), norm = this->Random({kDim});
  const at::Tensor in_order = at::full({kRows, 3, kHeads, kDim}, -7, qkv.options());
  const at::Tensor out = at::full({kOut, 3, kHeads, kDim}, -7, qkv.options());
  NormHeadsJob job{
      kRows, kRows, kHeads, kDim, qkv.data_ptr(), norm.data_ptr(), norm.data_ptr(), 1e-6f, in_order.data_ptr(),
      kRows, 0};
  RunOnHost<TypeParam>(job);
  job.out = out.data_ptr();
  job.out_rows = out_rows.data();
  RunOnHost<TypeParam>(job);
  at::Tensor expected = at::full_like(out, -7);
  for (int64_t row = 0; row < kRows; ++row) expected[out_rows[static_cast<size_t>(row)]].copy_(in_order[row]);
  EXPECT_TRUE(out.equal(expected));
}

TYPED_TEST(RowPrograms, AModelWithoutHeadNormsMovesOnly) {
  const at::Tensor qkv = this->Random({1, 2, 3, 1, 64}), out = at::zeros({1, 2, 3, 1, 64}, qkv.options());
  RunOnHost<TypeParam>(NormHeadsJob{2, 2, 1, 64, qkv.data_ptr(), nullptr, nullptr, 1e-6f, out.data_ptr(), 2, 0});
  EXPECT_TRUE(out.equal(qkv));
}

TYPED_TEST(RowPrograms, DequantizedIsSumTimesScalesPlusBias) {
  constexpr int64_t kRows = 5;
  for (const int64_t width : kWidths) {
    SCOPED_TRACE(width);
    const at::Tensor sums = at::randint(-2000000, 2000000, {kRows, width}, this->generator_, at::kInt);
    const at::Tensor rows = at::rand({kRows}) * 0.01, columns = at::rand({width}) * 0.01, bias = this->Random({width});
    const at::Tensor out = at::full({kRows, width}, kNaN, bias.options());
    DequantizeJob job{{kRows, 1, static_cast<int32_t>(width)},
                      sums.const_data_ptr<int32_t>(),
                      rows.const_data_ptr<float>(),
                      columns.const_data_ptr<float>(),
                      bias.data_ptr(),
                      out.data_ptr()};
    RunOnHost<TypeParam>(job);
    const at::Tensor product = sums.to(at::kFloat) * (rows.unsqueeze(1) * columns);
    EXPECT_TRUE(out.equal((product + bias.to(at::kFloat)).to(out.scalar_type())));
    job.bias = nullptr;
    RunOnHost<TypeParam>(job);
    EXPECT_TRUE(out.equal(product.to(out.scalar_type())));
  }
}

TEST(RowLanes, HoldEveryWidthInWholeWarps) {
  for (int width = kVector; width <= kMaxRowWidth; width += kVector) {
    const int lanes = RowLanes(width);
    ASSERT_EQ(lanes % kWarp, 0);
    ASSERT_LE(lanes, 1024);
    ASSERT_GE(lanes * kVectorsPerLane * kVector, width);
  }
}

// Every bfloat16 and every fp16. The relative error grows with -x, where the result is next to nothing.
TEST(GeluTanh, IsLibtorchsInDoublePrecision) {
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    const at::Tensor x = at::arange(0x10000, at::kInt).to(at::kShort).view(type).to(at::kDouble);
    const at::Tensor expected = at::gelu(x, "tanh");
    for (int64_t i = 0; i < x.numel(); ++i) {
      const double value = x.const_data_ptr<double>()[i], exact = expected.const_data_ptr<double>()[i];
      if (std::isinf(value)) continue;  // below
      const double actual = GeluTanhOf(static_cast<float>(value));
      if (std::isnan(value)) {
        ASSERT_TRUE(std::isnan(actual));
      } else {
        ASSERT_NEAR(actual, exact, 1e-6 * std::abs(exact) + 1e-7) << value;
      }
    }
  }
  EXPECT_EQ(GeluTanhOf(kInfinity), kInfinity);
  EXPECT_FALSE(std::isfinite(GeluTanhOf(-kInfinity)));  // as libtorch's: what comes in broken is not hidden
}

TEST(Exp2, IsWithinTwoUnitsInTheLastPlace) {
  for (float x = -126; x < 128; x += 0.00137f) {
    const double exact = std::exp2(static_cast<double>(x));
    ASSERT_NEAR(Exp2(x) / exact, 1, 0x1p-22) << x;
  }
  for (int power = -126; power <= 127; ++power) EXPECT_EQ(Exp2(static_cast<float>(power)), std::ldexp(1.0f, power));
  EXPECT_EQ(Exp2(128), kInfinity);
  EXPECT_EQ(Exp2(kInfinity), kInfinity);
  EXPECT_EQ(Exp2(-kInfinity), 0x1p-126f);
}

TEST(Float16, LoadsAndRoundsAsLibtorch) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float expected = c10::Half(half, c10::Half::from_bits());
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(Float16::Load(half)));
    } else {
      ASSERT_EQ(FloatBits(Float16::Load(half)), FloatBits(expected)) << std::hex << bits;
    }
  }
  for (uint32_t upper = 0; upper < 0x10000; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x3000u, 0xf000u, 0xffffu}) {
      const float value = FloatOfBits(upper << 16 | lower);
      if (std::isnan(value)) {
        ASSERT_TRUE(std::isnan(Float16::Load(Float16::Store(value))));
      } else {
        ASSERT_EQ(Float16::Store(value), c10::Half(value).x) << std::hexfloat << value;
      }
    }
  }
}

TEST(FourE4M3Codes, AreFourCodes) {
  const float x[4] = {1.5f, -300, 1e-3f, 1e30f};
  EXPECT_EQ(FourE4M3Codes(x, 2), uint32_t{E4M3Code(1.5f, 2)} | uint32_t{E4M3Code(-300, 2)} << 8 |
                                     uint32_t{E4M3Code(1e-3f, 2)} << 16 | 0x7eu << 24);
}

}  // namespace
}  // namespace fresco::kernels
