// The CPU's row kernels on every instruction set that this processor has, against the element functions of e4m3.h, bit
// for bit.
#include "pipeline/kernels/cpu/row_kernels.h"

#include <gtest/gtest.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "pipeline/kernels/e4m3.h"
#include "tests/pipeline/kernels/cpu/every_target.h"

namespace fresco::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr size_t kLongest = 70;

// While it lives, denormal inputs and results are zero, as libtorch can be told to have it.
class FlushedDenormals {
 public:
#if defined(__SSE__)
  FlushedDenormals() : before_(_mm_getcsr()) {
    _mm_setcsr(before_ | 0x8040);
  }
  ~FlushedDenormals() {
    _mm_setcsr(before_);
  }

 private:
  unsigned before_;
#endif
};

template <typename T>
using ElementOf = std::conditional_t<std::is_same_v<T, float>, Float32, BFloat16>;

template <typename T>
float ValueOf(T element) {
  return ElementOf<T>::Load(element);
}

// ---- rows -----------------------------------------------------------------------------------------------------------

// Elements of every kind: the special ones, any bits, and usual ones.
template <typename T>
std::vector<T> AnyElements(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> usual(-500, 500);
  const std::vector<float> special = {0.0f,       -0.0f,   kInfinity,  -kInfinity,  kNaN,    -kNaN,   0x1p-149f,
                                      -0x1p-127f, FLT_MIN, -0x1p-130f, 448,         464,     -464.1f, 480,
                                      448.1f,     0x1p-9f, 0x1p-10f,   -0x1.8p-10f, 0x1p-6f, 127.5,   -127.5,
                                      126.5,      0.5f,    -1.5f,      FLT_MAX,     -1e30f};
  std::vector<T> elements(n);
  for (T& element : elements) {
    const uint32_t kind = random() % 4;
    const float value = kind == 0   ? special[random() % special.size()]
                        : kind == 1 ? FloatOfBits(static_cast<uint32_t>(random()))
                                    : usual(random);
    element = ElementOf<T>::Store(value);
  }
  return elements;
}

std::vector<float> FiniteFloats(size_t n, uint32_t seed, float low, float high) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> usual(low, high);
  std::vector<float> values(n);
  for (float& value : values) value = usual(random);
  return values;
}

// n elements `offset` bytes past an aligned address, between bytes that nobody may change.
template <typename T>
class Row {
 public:
  Row(size_t n, size_t offset) : n_(n), offset_(offset), bytes_(64 + n * sizeof(T) + offset + 64, kGuard) {}
  Row(const T* from, size_t n, size_t offset) : Row(n, offset) {
    if (n > 0) std::memcpy(bytes_.data() + 64 + offset_, from, n * sizeof(T));
  }
  T* data() { return reinterpret_cast<T*>(bytes_.data() + 64 + offset_); }
  std::span<const T> span() { return {data(), n_}; }
  std::vector<T> Elements() const {
    std::vector<T> elements(n_);
    if (n_ > 0) std::memcpy(elements.data(), bytes_.data() + 64 + offset_, n_ * sizeof(T));
    return elements;
  }
  bool GuardsIntact() const {
    const size_t begin = 64 + offset_, end = begin + n_ * sizeof(T);
    for (size_t i = 0; i < bytes_.size(); ++i)
      if ((i < begin || i >= end) && bytes_[i] != kGuard) return false;
    return true;
  }

 private:
  static constexpr unsigned char kGuard = 0xa5;
  size_t n_, offset_;
  std::vector<unsigned char> bytes_;
};

// Of two NaN operands a processor passes on either: the bits of a product's NaN in fp32 are not promised.
enum class NaNs { kSameBits, kAnyBits };

template <typename T>
uint32_t BitsOf(T element) {
  if constexpr (std::is_same_v<T, float>) return FloatBits(element);
  return static_cast<uint32_t>(element);
}

template <typename T>
::testing::AssertionResult Same(const std::vector<T>& actual, const std::vector<T>& expected,
                                NaNs nans = NaNs::kSameBits) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (BitsOf(actual[i]) == BitsOf(expected[i])) continue;
    if (nans == NaNs::kAnyBits && std::isnan(ValueOf(actual[i])) && std::isnan(ValueOf(expected[i]))) continue;
    return ::testing::AssertionFailure() << "element " << i << " of " << expected.size() << " is " << +actual[i]
                                         << ", should be " << +expected[i];
  }
  return ::testing::AssertionSuccess();
}

// kernel(span, Out*) gives reference(element) for each, for every n from 0 to 70 and all of them, at odd addresses too.
template <typename Out, typename In, typename Kernel, typename Reference>
void ExpectEachElement(const std::vector<In>& elements, Kernel kernel, Reference reference,
                       NaNs nans = NaNs::kSameBits) {
  std::vector<Out> expected(elements.size());
  for (size_t i = 0; i < elements.size(); ++i) expected[i] = reference(elements[i]);
  const auto check = [&](size_t first, size_t n, size_t offset) {
    Row<In> input(elements.data() + first, n, offset);
    Row<Out> output(n, (offset * 3) % 8);
    kernel(input.span(), output.data());
    ASSERT_TRUE(Same(output.Elements(), std::vector<Out>(expected.begin() + first, expected.begin() + first + n), nans))
        << "n " << n << " offset " << offset;
    ASSERT_TRUE(output.GuardsIntact()) << "n " << n << " offset " << offset;
  };
  for (size_t n = 0; n <= kLongest; ++n) check((n * 7) % (elements.size() - kLongest), n, n % 5);
  for (size_t offset = 0; offset < 4; ++offset) check(0, elements.size(), offset);
}

// ---- the instruction sets -------------------------------------------------------------------------------------------

class RowKernels : public EveryTarget {};
INSTANTIATE_TEST_SUITE_P(Targets, RowKernels, ::testing::ValuesIn(hwy::SupportedAndGeneratedTargets()), TargetOf);

// Scales' reciprocals as RowScale makes them, and NaN.
const std::vector<float>& Inverses() {
  static const std::vector<float> inverses = {1, 0.3f, 7.77f, 0x1p-119f, 0x1p100f, kNaN};
  return inverses;
}

template <typename T>
std::vector<T> EveryBFloat16() {
  std::vector<T> elements(0x10000);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) elements[bits] = ElementOf<T>::Store(FloatOfBits(bits << 16));
  return elements;
}

// Expectations are computed with denormals; the kernel runs with and without.
template <typename Out, typename In, typename Kernel, typename Reference>
void ExpectEachElementFlushedOrNot(const std::vector<In>& elements, Kernel kernel, Reference reference) {
  ExpectEachElement<Out>(elements, kernel, reference);
  const auto flushed = [&](std::span<const In> x, Out* out) {
    const FlushedDenormals flush;
    kernel(x, out);
  };
  ExpectEachElement<Out>(elements, flushed, reference);
}

template <typename T>
void ExpectQuantizers() {
  std::vector<T> elements = EveryBFloat16<T>();
  for (const T element : AnyElements<T>(5000, 1)) elements.push_back(element);
  for (const float inverse : Inverses()) {
    SCOPED_TRACE(inverse);
    ExpectEachElementFlushedOrNot<uint8_t>(
        elements, [&](std::span<const T> x, uint8_t* codes) { QuantizeE4M3(x, inverse, codes); },
        [&](T x) { return E4M3Code(ValueOf(x), inverse); });
    ExpectEachElementFlushedOrNot<float>(
        elements, [&](std::span<const T> x, float* values) { RoundTripE4M3(x, inverse, values); },
        [&](T x) { return FromE4M3(E4M3Code(ValueOf(x), inverse)); });
    ExpectEachElementFlushedOrNot<int8_t>(
        elements, [&](std::span<const T> x, int8_t* codes) { QuantizeInt8(x, inverse, codes); },
        [&](T x) { return Int8Code(ValueOf(x), inverse); });
  }
}

TEST_P(RowKernels, QuantizeFloats) {
  ExpectQuantizers<float>();
}
TEST_P(RowKernels, QuantizeBFloat16) {
  ExpectQuantizers<BFloat16Bits>();
}

// Around every boundary between two codes, which bfloat16 inputs alone do not reach.
TEST_P(RowKernels, RoundsFloatsBesideEveryBoundary) {
  std::vector<float> values;
  for (uint8_t code = 0; code < 0x7e; ++code) {
    const uint32_t middle = FloatBits((FromE4M3(code) + FromE4M3(code + 1)) / 2);
    for (const uint32_t bits : {middle - 1, middle, middle + 1}) {
      values.push_back(FloatOfBits(bits));
      values.push_back(-FloatOfBits(bits));
    }
  }
  ExpectEachElement<uint8_t>(
      values, [](std::span<const float> x, uint8_t* codes) { QuantizeE4M3(x, 1, codes); },
      [](float x) { return ToE4M3(x); });
}

TEST_P(RowKernels, RoundsInPlace) {
  std::vector<float> values = AnyElements<float>(kLongest, 2);
  std::vector<float> expected;
  for (const float value : values) expected.push_back(FromE4M3(E4M3Code(value, 0.7f)));
  RoundTripE4M3(std::span<const float>(values), 0.7f, values.data());
  EXPECT_TRUE(Same(values, expected));
}

std::vector<uint8_t> EveryCode() {
  std::vector<uint8_t> codes(256);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i);
  return codes;
}

TEST_P(RowKernels, ExpandEveryCode) {
  ExpectEachElementFlushedOrNot<float>(
      EveryCode(), [](std::span<const uint8_t> codes, float* values) { ExpandE4M3(codes, values); }, FromE4M3);
  ExpectEachElementFlushedOrNot<BFloat16Bits>(
      EveryCode(), [](std::span<const uint8_t> codes, BFloat16Bits* values) { ExpandE4M3(codes, values); },
      [](uint8_t code) { return static_cast<BFloat16Bits>(FloatBits(FromE4M3(code)) >> 16); });
}

// Scales of every size, of them many whose products lie next to the middle of two bfloat16.
std::vector<float> Scales() {
  std::mt19937 random(3);
  std::vector<float> scales = {1, kSmallestScale, 0x1.fffp-90f, FLT_MAX, kNaN, kInfinity, 0};
  for (int i = 0; i < 200; ++i) {
    const float middle = FloatOfBits((64 + random() % 128) << 23 | (random() & 0x7f) << 16 | 0x8000);
    scales.push_back(middle / FromE4M3(static_cast<uint8_t>(random() % 0x7e + 1)));
  }
  return scales;
}

TEST_P(RowKernels, ExpandScaled) {
  for (const float scale : Scales()) {
    SCOPED_TRACE(scale);
    ExpectEachElement<float>(
        EveryCode(), [&](std::span<const uint8_t> codes, float* values) { ExpandE4M3Scaled(codes, scale, values); },
        [&](uint8_t code) { return ScaledE4M3<Float32>(code, scale); }, NaNs::kAnyBits);
    ExpectEachElement<BFloat16Bits>(
        EveryCode(),
        [&](std::span<const uint8_t> codes, BFloat16Bits* values) { ExpandE4M3Scaled(codes, scale, values); },
        [&](uint8_t code) { return ScaledE4M3<BFloat16>(code, scale); });
  }
}

TEST_P(RowKernels, ExpandInt8) {
  std::vector<int8_t> codes;
  for (int i = -128; i < 400; ++i) codes.push_back(static_cast<int8_t>(i));
  for (const float scale : Scales()) {
    SCOPED_TRACE(scale);
    ExpectEachElement<float>(
        codes, [&](std::span<const int8_t> given, float* values) { ExpandInt8Scaled(given, scale, values); },
        [&](int8_t code) { return static_cast<float>(code) * scale; }, NaNs::kAnyBits);
    ExpectEachElement<BFloat16Bits>(
        codes, [&](std::span<const int8_t> given, BFloat16Bits* values) { ExpandInt8Scaled(given, scale, values); },
        [&](int8_t code) { return BFloat16::Store(static_cast<float>(code) * scale); });
  }
}

// Of whole numbers, whose sums are exact in any order; every length, so that every end of a row is met.
TEST_P(RowKernels, DotIsTheSumOfProducts) {
  std::mt19937 random(5);
  for (size_t n = 0; n <= 3 * kLongest; ++n) {
    std::vector<float> x(n), y(n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
      x[i] = static_cast<float>(static_cast<int>(random() % 201) - 100);
      y[i] = static_cast<float>(static_cast<int>(random() % 201) - 100);
      sum += double{x[i]} * y[i];
    }
    EXPECT_EQ(Dot(x, y.data()), sum) << n;
  }
}

TEST_P(RowKernels, WidenEveryBFloat16) {
  ExpectEachElement<float>(
      EveryBFloat16<BFloat16Bits>(), [](std::span<const BFloat16Bits> x, float* values) { Widen(x, values); },
      [](BFloat16Bits x) { return ValueOf(x); });
}

// The element functions themselves, which GPUs run too.
TEST(ElementFunctions, DoNotDependOnDenormals) {
  std::vector<uint32_t> with_denormals, flushed;
  const auto compute = [](std::vector<uint32_t>& results) {
    for (const uint8_t code : EveryCode()) {
      results.push_back(FloatBits(FromE4M3(code)));
      results.push_back(FloatBits(FromE5M2(code)));
    }
    for (const float x : EveryBFloat16<float>()) {
      results.push_back(FloatBits(E4M3Scale(std::abs(x))));
      results.push_back(E4M3Code(x, InverseScale(E4M3Scale(std::abs(x)))));
      results.push_back(E4M3Code(x, 0x1p100f));
      results.push_back(Int8Code(x, 0x1p100f) & 0xff);
    }
  };
  compute(with_denormals);
  {
    const FlushedDenormals flush;
    compute(flushed);
  }
  EXPECT_EQ(with_denormals, flushed);
}

// ---- products back in units -----------------------------------------------------------------------------------------

// The kernel overload for these types.
template <typename T>
void Apply(std::span<const int32_t> sums, float row, const float* columns, const float* bias, T* values) {
  DequantizeInt32(sums, row, columns, bias, values);
}
template <typename T>
void Apply(std::span<const float> sums, float row, const float* columns, const float* bias, T* values) {
  ScaleColumns(sums, row, columns, bias, values);
}

template <typename T, typename Sum>
void ExpectEpilogue(const std::vector<Sum>& sums, float row) {
  const std::vector<float> columns = FiniteFloats(sums.size(), 5, 1e-3f, 1e-2f);
  const std::vector<float> bias = FiniteFloats(sums.size(), 6, -3, 3);
  for (size_t n = 0; n <= sums.size(); n = n < kLongest ? n + 1 : n + sums.size() - kLongest) {
    Row<Sum> sum_row(sums.data(), n, n % 4);
    Row<float> column_row(columns.data(), n, (n + 1) % 4), bias_row(bias.data(), n, (n + 2) % 4);
    Row<T> plain(n, n % 8), biased(n, (n + 3) % 8);
    Apply(sum_row.span(), row, column_row.data(), nullptr, plain.data());
    Apply(sum_row.span(), row, column_row.data(), bias_row.data(), biased.data());
    std::vector<T> expected_plain(n), expected_biased(n);
    for (size_t i = 0; i < n; ++i) {
      const auto sum = static_cast<float>(sums[i]);
      expected_plain[i] = ElementOf<T>::Store(Dequantized(sum, row, columns[i]));
      expected_biased[i] = ElementOf<T>::Store(Dequantized(sum, row, columns[i], bias[i]));
    }
    ASSERT_TRUE(Same(plain.Elements(), expected_plain, NaNs::kAnyBits)) << n;
    ASSERT_TRUE(Same(biased.Elements(), expected_biased, NaNs::kAnyBits)) << n;
    ASSERT_TRUE(plain.GuardsIntact() && biased.GuardsIntact()) << n;
    if (n == sums.size()) break;
  }
}

template <typename Sum>
void ExpectEpilogues(const std::vector<Sum>& sums) {
  for (const float row : {0.0173f, 1e-36f, kNaN}) {
    SCOPED_TRACE(row);
    ExpectEpilogue<float>(sums, row);
    ExpectEpilogue<BFloat16Bits>(sums, row);
    const FlushedDenormals flush;
    ExpectEpilogue<float>(sums, row);
    ExpectEpilogue<BFloat16Bits>(sums, row);
  }
}

TEST_P(RowKernels, DequantizeInt32Sums) {
  std::mt19937 random(7);
  std::vector<int32_t> sums = {
      0, 1, -1, 0x7fffffff, std::numeric_limits<int32_t>::min(), (1 << 24) + 1, -(1 << 25) - 3};
  while (sums.size() < 1000) sums.push_back(static_cast<int32_t>(random()) >> (random() % 24));
  ExpectEpilogues(sums);
}

TEST_P(RowKernels, ScaleFloatSums) {
  std::vector<float> sums = FiniteFloats(1000, 8, -1e6f, 1e6f);
  for (const float special : {0.0f, -0.0f, kInfinity, -kInfinity, kNaN, 0x1p-149f, FLT_MAX}) sums.push_back(special);
  ExpectEpilogues(sums);
}

TEST_P(RowKernels, ScaleFloatSumsInPlace) {
  std::vector<float> sums = FiniteFloats(kLongest, 9, -10, 10);
  const std::vector<float> columns = FiniteFloats(kLongest, 10, 0.1f, 1);
  std::vector<float> expected;
  for (size_t i = 0; i < sums.size(); ++i) expected.push_back(Dequantized(sums[i], 0.3f, columns[i], columns[i]));
  ScaleColumns(std::span<const float>(sums), 0.3f, columns.data(), columns.data(), sums.data());
  EXPECT_TRUE(Same(sums, expected));
}

// ---- measures -------------------------------------------------------------------------------------------------------

template <typename T>
void ExpectMeasures(const std::vector<T>& elements) {
  for (size_t n = 0; n <= kLongest; ++n) {
    for (size_t first = 0; first + n <= elements.size(); first += 97) {
      uint32_t largest = 0;
      size_t above = 0;
      for (size_t i = first; i < first + n; ++i) {
        largest = std::max(largest, MagnitudeBits(ValueOf(elements[i])));
        above += !(std::abs(ValueOf(elements[i])) <= 321.5f);
      }
      Row<T> row(elements.data() + first, n, (n + first) % 4);
      ASSERT_EQ(FloatBits(AbsMax(row.span())), largest) << n;
      ASSERT_EQ(CountSaturated(row.span(), 321.5f), above) << n;
    }
  }
}

template <typename T>
void ExpectMeasuresFlushedOrNot() {
  std::vector<T> usual;
  for (const float value : FiniteFloats(500, 11, -400, 400)) usual.push_back(ElementOf<T>::Store(value));
  ExpectMeasures(usual);
  ExpectMeasures(AnyElements<T>(500, 12));
  const FlushedDenormals flush;
  ExpectMeasures(AnyElements<T>(500, 12));
  const std::vector<T> denormals(9, ElementOf<T>::Store(-0x1p-130f));
  EXPECT_EQ(FloatBits(AbsMax(std::span<const T>(denormals))), FloatBits(0x1p-130f));
  EXPECT_EQ(CountSaturated(std::span<const T>(denormals), 0), 9u);
}

TEST_P(RowKernels, MeasureFloats) {
  ExpectMeasuresFlushedOrNot<float>();
}
TEST_P(RowKernels, MeasureBFloat16) {
  ExpectMeasuresFlushedOrNot<BFloat16Bits>();
}

TEST_P(RowKernels, OneNaNAnywhereIsTheLargestMagnitude) {
  for (size_t n = 1; n <= kLongest; ++n) {
    for (const float nan : {kNaN, -kNaN}) {
      std::vector<float> x(n, kInfinity);
      x[n / 2] = nan;
      EXPECT_TRUE(std::isnan(AbsMax(std::span<const float>(x)))) << n;
    }
  }
}

}  // namespace
}  // namespace fresco::kernels
