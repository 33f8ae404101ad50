// The group norm's kernel, executed on the CPU, against libtorch in double precision.
#include <ATen/TensorOperators.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/silu.h>
#include <gtest/gtest.h>

#include <limits>
#include <type_traits>
#include <vector>

#include "pipeline/kernels/group_norm_program.h"
#include "tests/pipeline/kernels/group_norm_images.h"

namespace fresco::kernels {
namespace {

// Groups narrower than a vector, as wide and wider; SD3.5's channels; fewer pixels than a run has, and counts that
// neither runs nor the loads of a lane divide; more runs than pixels would fill.
const std::vector<ImageShape> kShapes = {{1, 8, 1},       {1, 64, 32},    {7, 32, 8},      {31, 64, 8},  {33, 64, 32},
                                         {1021, 128, 32}, {999, 256, 32}, {1024, 512, 32}, {130, 24, 3}, {70001, 8, 2}};

template <typename Type>
class GroupNormProgram : public ::testing::Test {
 protected:
  static constexpr bool kHalf = std::is_same_v<Type, Float16>;
  static constexpr at::ScalarType kScalar = kHalf ? at::kHalf : at::kBFloat16;
  static constexpr double kRounding = kHalf ? 0x1p-11 : 0x1p-8;  // relative, of a store

  static at::Tensor Exact(const GroupNormTensors& t, bool silu, bool biased) {
    const auto wide = [](const at::Tensor& values) { return values.to(at::kDouble); };
    const at::Tensor x = biased ? wide(t.x) + wide(t.x_bias) : wide(t.x);
    const at::Tensor image = x.t().unsqueeze(0);
    const at::Tensor normed = at::group_norm(image, t.groups, wide(t.weight), wide(t.bias), 1e-6).squeeze(0).t();
    return silu ? at::silu(normed) : normed;
  }

  // Computed in fp32 and rounded once. `accuracy`: of fp32's result, beside the size of what it is a sum of.
  static void ExpectNorm(const GroupNormTensors& t, bool silu, double accuracy, bool biased = false) {
    ExpectRounded(t, Exact(t, silu, biased), accuracy);
  }

  static void ExpectRounded(const GroupNormTensors& t, const at::Tensor& exact, double accuracy) {
    const at::Tensor error = (t.out.to(at::kDouble) - exact).abs();
    const at::Tensor allowed = exact.abs() * (kRounding * 1.01) + accuracy * (1 + exact.abs());
    EXPECT_TRUE((error <= allowed).all().template item<bool>())
        << "by " << (error - allowed).max().template item<double>();
  }
};

using Types = ::testing::Types<BFloat16, Float16>;
struct Names {
  template <typename Type>
  static std::string GetName(int) {
    return std::is_same_v<Type, BFloat16> ? "bf16" : "fp16";
  }
};
TYPED_TEST_SUITE(GroupNormProgram, Types, Names);

TYPED_TEST(GroupNormProgram, IsTheNormRoundedOnce) {
  for (const ImageShape& shape : kShapes) {
    for (const bool silu : {false, true}) {
      SCOPED_TRACE(testing::Message() << shape.pixels << " pixels, " << shape.channels << " channels, silu " << silu);
      if (shape.pixels * shape.channels == shape.groups) continue;  // a group of one element has no deviation
      const GroupNormTensors t(shape, TestFixture::kScalar, /*mean=*/0.3, /*seed=*/5);
      RunOnHost<TypeParam>(t.Job(silu, /*biased=*/silu));
      TestFixture::ExpectNorm(t, silu, /*accuracy=*/3e-5, /*biased=*/silu);
    }
  }
}

// A mean a hundred times the deviation: sums of squares about zero would lose four of fp32's seven digits.
TYPED_TEST(GroupNormProgram, AMeanFarFromZeroCostsNothing) {
  const GroupNormTensors t({5000, 64, 32}, TestFixture::kScalar, /*mean=*/100, /*seed=*/6);
  RunOnHost<TypeParam>(t.Job(/*silu=*/false));
  TestFixture::ExpectNorm(t, /*silu=*/false, /*accuracy=*/1e-4);
}

TYPED_TEST(GroupNormProgram, MayBeWrittenOverItsInput) {
  const GroupNormTensors t({100, 64, 32}, TestFixture::kScalar, 0, 7),
      in_place({100, 64, 32}, TestFixture::kScalar, 0, 7);
  RunOnHost<TypeParam>(t.Job(/*silu=*/true));
  GroupNormJob job = in_place.Job(/*silu=*/true);
  job.out = const_cast<void*>(job.x);
  RunOnHost<TypeParam>(job);
  EXPECT_TRUE(in_place.x.equal(t.out));
}

TYPED_TEST(GroupNormProgram, ANumberThatIsNoneIsItsGroupsAlone) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const GroupNormTensors t({200, 32, 4}, TestFixture::kScalar, 0, 8);
    t.x[150][9].fill_(bad);  // the second group's
    RunOnHost<TypeParam>(t.Job(/*silu=*/true));
    const at::Tensor none = at::isnan(t.out);
    EXPECT_TRUE(none.narrow(1, 8, 8).all().template item<bool>());
    EXPECT_EQ(none.sum().template item<int64_t>(), 200 * 8);
  }
}

// An image of one value: the deviation is that of eps alone.
TYPED_TEST(GroupNormProgram, AFlatImageBecomesItsBias) {
  const GroupNormTensors t({300, 64, 32}, TestFixture::kScalar, 0, 9);
  t.x.fill_(2.5);
  RunOnHost<TypeParam>(t.Job(/*silu=*/false));
  EXPECT_TRUE(t.out.equal(t.bias.expand_as(t.out)));
}

TYPED_TEST(GroupNormProgram, SumsOfImagesAreRoundedOnce) {
  for (const ImageShape& shape : kShapes) {
    const GroupNormTensors t(shape, TestFixture::kScalar, 0.3, 10), other(shape, TestFixture::kScalar, 0, 11);
    const at::Tensor x = t.x.to(at::kDouble), bias = t.x_bias.to(at::kDouble), y = other.x.to(at::kDouble);
    RunOnHost<TypeParam>(t.SumWith(other.x, /*biased=*/true));
    TestFixture::ExpectRounded(t, x + bias + y, /*accuracy=*/1e-6);
    RunOnHost<TypeParam>(t.SumWith(other.x, /*biased=*/false));
    TestFixture::ExpectRounded(t, x + y, /*accuracy=*/1e-6);
  }
}

TEST(GroupNormRuns, AreBoundedByWhatTheyWouldHold) {
  EXPECT_EQ(GroupNormRuns(1, 512), 1);
  EXPECT_EQ(GroupNormRuns(64 * 64, 512), 128);
  for (const int64_t side : {512, 1024, 4096, 16384}) {
    for (const int64_t channels : {128, 256, 512}) {
      const int64_t runs = GroupNormRuns(side * side, channels);
      EXPECT_LE(runs * channels * 2 * 4, 4 << 20);
      EXPECT_GE(runs * channels / 8, kGroupNormLanes / 2);
    }
  }
}

}  // namespace
}  // namespace fresco::kernels
