// The row arithmetic that CPU and GPU share, against libtorch's casts, bit for bit.
#include "pipeline/kernels/e4m3.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace fresco::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

at::Tensor TensorOf(const std::vector<float>& values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
  std::memcpy(tensor.data_ptr(), values.data(), values.size() * sizeof(float));
  return tensor;
}

at::Tensor AllCodes(at::ScalarType type) {
  at::Tensor codes = at::empty({256}, type);
  for (int code = 0; code < 256; ++code) static_cast<uint8_t*>(codes.data_ptr())[code] = static_cast<uint8_t>(code);
  return codes;
}

void ExpectLibtorchsCodes(const at::Tensor& values) {
  const at::Tensor expected = at::clamp(values, -448, 448).to(at::kFloat8_e4m3fn);
  for (int64_t i = 0; i < values.numel(); ++i) {
    const float value = values.data_ptr<float>()[i];
    ASSERT_EQ(ToE4M3(value), static_cast<const uint8_t*>(expected.data_ptr())[i]) << std::hexfloat << value;
  }
}

// Widened first: a clamp of bfloat16 itself gives every NaN a negative sign with some of libtorch's instruction sets.
TEST(E4M3, EveryBFloat16HasLibtorchsCode) {
  at::Tensor values = at::empty({0x10000}, at::kBFloat16);
  for (uint32_t bits = 0; bits < 0x10000; ++bits)
    static_cast<uint16_t*>(values.data_ptr())[bits] = static_cast<uint16_t>(bits);
  ExpectLibtorchsCodes(values.to(at::kFloat));
}

// The codes' values, the middles between neighbours, and the floats beside each, with both signs.
std::vector<float> RoundingBoundaries() {
  std::vector<float> values;
  for (uint8_t code = 0; code < 0x7f; ++code) {
    const float value = FromE4M3(code), next = code == 0x7e ? 480.0f : FromE4M3(code + 1);
    for (const float center : {value, (value + next) / 2}) {
      for (const float near : {std::nextafter(center, -kInfinity), center, std::nextafter(center, kInfinity)}) {
        values.push_back(near);
        values.push_back(-near);
      }
    }
  }
  return values;
}

TEST(E4M3, FloatsAroundEveryRoundingBoundaryHaveLibtorchsCode) {
  ExpectLibtorchsCodes(TensorOf(RoundingBoundaries()));
}

TEST(E4M3, AnyFloatHasLibtorchsCode) {
  std::mt19937 random(1);
  std::vector<float> values = {0.0f, -0.0f, kInfinity, -kInfinity, kNaN, -kNaN, 0x1p-149f, -0x1p-126f, 0x1.8p-10f};
  for (int i = 0; i < 200000; ++i) values.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
  std::uniform_real_distribution<float> usual(-500, 500);
  for (int i = 0; i < 200000; ++i) values.push_back(usual(random));
  ExpectLibtorchsCodes(TensorOf(values));
}

TEST(E4M3, EveryCodeHasLibtorchsBits) {
  const at::Tensor expected = AllCodes(at::kFloat8_e4m3fn).to(at::kFloat);
  for (int code = 0; code < 256; ++code)
    EXPECT_EQ(FloatBits(FromE4M3(code)), FloatBits(expected.data_ptr<float>()[code])) << code;
}

TEST(E5M2, EveryCodeHasLibtorchsBits) {
  const at::Tensor expected = AllCodes(at::kFloat8_e5m2).to(at::kFloat);
  for (int code = 0; code < 256; ++code)
    EXPECT_EQ(FloatBits(FromE5M2(code)), FloatBits(expected.data_ptr<float>()[code])) << code;
}

TEST(E4M3, AnElementsCodeIsThatOfItsProductAndKeepsItsSign) {
  for (const float inverse : {1.0f, 3.7f, 0x1p-100f, 0x1p100f, 0.0f})
    for (const float x : RoundingBoundaries()) ASSERT_EQ(E4M3Code(x, inverse), ToE4M3(x * inverse)) << x;
  EXPECT_EQ(E4M3Code(1, kNaN), 0x7f);
  EXPECT_EQ(E4M3Code(-1, kNaN), 0xff);
  EXPECT_EQ(E4M3Code(-kNaN, 1), 0xff);
  EXPECT_EQ(E4M3Code(-kInfinity, 1), 0xfe);
}

TEST(RowScale, IsTheLargestMagnitudeOverTheLargestCode) {
  EXPECT_EQ(E4M3Scale(448), 1);
  EXPECT_EQ(E4M3Scale(3), 3.0f / 448);
  EXPECT_EQ(Int8Scale(127), 1);
  EXPECT_EQ(Int8Scale(3), 3.0f / 127);
  EXPECT_TRUE(std::isnormal(InverseScale(E4M3Scale(FLT_MAX))));
  EXPECT_TRUE(std::isnormal(InverseScale(Int8Scale(FLT_MAX))));
}

TEST(RowScale, ARowOfNextToNothingHasScaleOneAndCodesZero) {
  for (const float absmax : {0.0f, 0x1p-149f, FLT_MIN, std::nextafter(kSmallestScale * 448, 0.0f)}) {
    EXPECT_EQ(E4M3Scale(absmax), 1) << absmax;
    EXPECT_EQ(E4M3Code(absmax, InverseScale(E4M3Scale(absmax))), 0);
    EXPECT_EQ(Int8Code(absmax, InverseScale(E4M3Scale(absmax))), 0);
  }
  EXPECT_EQ(E4M3Scale(kSmallestScale * 448), kSmallestScale);
  EXPECT_EQ(E4M3Code(kSmallestScale * 448, InverseScale(kSmallestScale)), 0x7e);
  EXPECT_EQ(Int8Scale(kSmallestScale * 127), kSmallestScale);
}

TEST(RowScale, ANonFiniteElementMakesEveryProductOfItsRowNaN) {
  for (const float absmax : {kInfinity, kNaN}) {
    for (const float scale : {E4M3Scale(absmax), Int8Scale(absmax)}) {
      EXPECT_TRUE(std::isnan(scale));
      EXPECT_EQ(E4M3Code(2, InverseScale(scale)), 0x7f);
      EXPECT_EQ(Int8Code(2, InverseScale(scale)), 0);
      EXPECT_TRUE(std::isnan(Dequantized(0, scale, 1)));
    }
  }
}

TEST(Int8, CodesAreLibtorchsRoundedAndClamped) {
  std::vector<float> values = {0.5f, 1.5f, -0.5f, -2.5f, 126.5f, 127.5f, -127.5f, 1e9f, -1e30f, kInfinity, -kInfinity};
  std::mt19937 random(2);
  std::uniform_real_distribution<float> usual(-130, 130);
  for (int i = 0; i < 100000; ++i) values.push_back(usual(random));
  const at::Tensor expected = TensorOf(values).round().clamp(-127, 127).to(at::kChar);
  for (size_t i = 0; i < values.size(); ++i)
    ASSERT_EQ(Int8Code(values[i], 1), expected.data_ptr<int8_t>()[i]) << values[i];
}

// The nearest bfloat16 of a product that a double holds exactly; ties to even.
uint16_t RoundedOnce(double exact) {
  const float below = FloatOfBits(FloatBits(static_cast<float>(exact)) & 0xffff0000u);
  double best = below;
  for (const int step : {-1, 1}) {
    const double other = FloatOfBits(FloatBits(below) + step * 0x10000);
    const double gain = std::abs(best - exact) - std::abs(other - exact);
    const bool other_is_even = (FloatBits(static_cast<float>(other)) & 0x10000u) == 0;
    if (gain > 0 || (gain == 0 && other_is_even)) best = other;
  }
  return static_cast<uint16_t>(FloatBits(static_cast<float>(best)) >> 16);
}

TEST(ScaledE4M3, IsRoundedOnce) {
  std::mt19937 random(3);
  int rounded_twice_differs = 0;
  for (int i = 0; i < 200000; ++i) {
    const auto code = static_cast<uint8_t>(random() % 0x7e + 1);
    const float value = FromE4M3(code);
    // A scale that brings the product next to the middle of two bfloat16.
    const float middle = FloatOfBits((64 + random() % 128) << 23 | (random() & 0x7f) << 16 | 0x8000);
    const float scale = FloatOfBits(FloatBits(middle / value) + random() % 3 - 1);
    const double exact = static_cast<double>(value) * scale;
    const uint16_t expected = RoundedOnce(exact);
    ASSERT_EQ(ScaledE4M3<BFloat16>(code, scale), expected) << std::hexfloat << value << " * " << scale;
    ASSERT_EQ(ScaledE4M3<BFloat16>(code | 0x80, scale), expected | 0x8000);
    ASSERT_EQ(ScaledE4M3<Float32>(code, scale), value * scale);
    rounded_twice_differs += BFloat16::Store(value * scale) != expected;
  }
  EXPECT_GT(rounded_twice_differs, 100);
}

TEST(ScaledE4M3, NaNAndOverflow) {
  EXPECT_EQ(ScaledE4M3<BFloat16>(0x7f, 2), 0x7fc0);
  EXPECT_EQ(ScaledE4M3<BFloat16>(0x38, kNaN), 0x7fc0);
  EXPECT_EQ(ScaledE4M3<BFloat16>(0x7e, FLT_MAX), 0x7f80);
  EXPECT_EQ(ScaledE4M3<BFloat16>(0xfe, FLT_MAX), 0xff80);
  EXPECT_EQ(ScaledE4M3<BFloat16>(0x80, 3), 0x8000);
}

}  // namespace
}  // namespace fresco::kernels
