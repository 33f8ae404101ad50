// Compiled once per instruction set: foreach_target.h includes this file again and again, each time with another
// HWY_NAMESPACE and the compiler set to that instruction set. The last part chooses among them at run time.
// Built with -ffp-contract=off, since vector intrinsics are plain products and sums to gcc, which it would contract.
#include "pipeline/kernels/cpu/row_kernels.h"

#include <cstring>
#include <iterator>
#include <type_traits>

#include "pipeline/kernels/cpu/row_kernel_table.h"
#include "pipeline/kernels/e4m3.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "pipeline/kernels/cpu/row_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After foreach_target.h, once for each of its targets.
#include "pipeline/kernels/cpu/float_vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fresco::kernels {
namespace HWY_NAMESPACE {
namespace {

// ---- a row in whole vectors -----------------------------------------------------------------------------------------

// The end of a row, filled up with zeros to a vector of D's lanes.
template <typename T, class D>
struct Padded {
  Padded() = default;
  Padded(const T* from, size_t n) {
    if (n > 0) memcpy(lanes, from, n * sizeof(T));
  }
  T lanes[hn::MaxLanes(D())] = {};
};

// operation(to + i, from + i...) for every D's lanes of a row.
template <class D, class Operation, typename To, typename... From>
HWY_INLINE void MapRow(D d, size_t n, Operation operation, To* to, const From*... from) {
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) operation(to + i, (from + i)...);
  if (i == n) return;
  Padded<To, D> result;
  operation(result.lanes, Padded<From, D>(from + i, n - i).lanes...);
  memcpy(to + i, result.lanes, (n - i) * sizeof(To));
}

// ---- elements -------------------------------------------------------------------------------------------------------

HWY_INLINE Floats LoadFloats(const float* from) {
  return hn::LoadU(kFloats, from);
}

HWY_INLINE Floats LoadFloats(const uint16_t* from) {
  return hn::BitCast(kFloats, hn::ShiftLeft<16>(hn::PromoteTo(kBits, hn::LoadU(LanesOf<uint16_t>(), from))));
}

HWY_INLINE Floats LoadFloats(const int32_t* from) {
  return hn::ConvertTo(kFloats, hn::LoadU(kInts, from));
}

// The sign bit of each lane.
HWY_INLINE Bits SignsOf(Floats values) {
  return hn::And(hn::BitCast(kBits, values), hn::Set(kBits, 0x80000000u));
}

// ---- E4M3 -----------------------------------------------------------------------------------------------------------

// E4M3Magnitude up to its last step; anything where the magnitude is NaN.
struct E4M3Rounding {
  HWY_INLINE explicit E4M3Rounding(Floats magnitudes) {
    const Floats clamped = hn::Min(magnitudes, hn::Set(kFloats, kE4M3Largest));
    const auto power = hn::And(hn::BitCast(kInts, clamped), hn::Set(kInts, 0x7f800000));
    binade = hn::BitCast(kBits, hn::Max(power, hn::Set(kInts, 0x3c800000)));
    large = hn::Add(binade, hn::Set(kBits, 20u << 23));
    sum = hn::Add(clamped, hn::BitCast(kFloats, large));
  }
  Bits binade, large;
  Floats sum;
};

HWY_INLINE Bits E4M3Codes(Floats x, Floats inverse_scale) {
  const Floats magnitudes = hn::Abs(hn::Mul(x, inverse_scale));
  const E4M3Rounding rounding(magnitudes);
  const Bits places = hn::Sub(hn::BitCast(kBits, rounding.sum), rounding.large);
  const Bits numbers = hn::Add(places, hn::ShiftRight<20>(hn::Sub(rounding.binade, hn::Set(kBits, 0x3c800000u))));
  const auto nan = hn::RebindMask(kBits, hn::IsNaN(magnitudes));
  return hn::Or(hn::IfThenElse(nan, hn::Set(kBits, 0x7f), numbers), hn::ShiftRight<24>(SignsOf(x)));
}

// FromE4M3 of E4M3Codes, without the codes.
HWY_INLINE Floats E4M3RoundTrips(Floats x, Floats inverse_scale) {
  const Floats magnitudes = hn::Abs(hn::Mul(x, inverse_scale));
  const E4M3Rounding rounding(magnitudes);
  const Floats numbers = hn::Sub(rounding.sum, hn::BitCast(kFloats, rounding.large));
  const auto nan = hn::RebindMask(kBits, hn::IsNaN(magnitudes));
  const Bits values = hn::IfThenElse(nan, hn::Set(kBits, 0x7ff00000u), hn::BitCast(kBits, numbers));
  return hn::BitCast(kFloats, hn::Or(values, SignsOf(x)));
}

// As FromE4M3.
HWY_INLINE Floats E4M3Values(const uint8_t* from) {
  const Bits codes = hn::PromoteTo(kBits, hn::LoadU(LanesOf<uint8_t>(), from));
  const Bits magnitudes = hn::And(codes, hn::Set(kBits, 0x7f));
  const Floats normal = hn::BitCast(kFloats, hn::Add(hn::ShiftLeft<20>(magnitudes), hn::Set(kBits, 120u << 23)));
  const Floats subnormal = hn::Sub(hn::Add(normal, normal), hn::Set(kFloats, 0x1p-6f));
  const Bits numbers = hn::BitCast(kBits, hn::Min(normal, subnormal));
  const auto nan = hn::Eq(magnitudes, hn::Set(kBits, 0x7f));
  const Bits values = hn::Or(numbers, hn::IfThenElseZero(nan, hn::Set(kBits, 0x7f800000u)));
  return hn::BitCast(kFloats, hn::Or(values, hn::ShiftLeft<24>(hn::Xor(codes, magnitudes))));
}

// The upper half of FromE4M3, in lanes of 16 bits. As a function of the code it is a chain of lines, ever less steep:
// the lowest of them is right at every code but 0.
constexpr hn::ScalableTag<int16_t> kHalves;

HWY_INLINE void ExpandToHalves(uint16_t* to, const uint8_t* from) {
  using Halves = hn::VFromD<decltype(kHalves)>;
  const Halves codes = hn::PromoteTo(kHalves, hn::LoadU(hn::Rebind<uint8_t, decltype(kHalves)>(), from));
  const Halves magnitudes = hn::And(codes, hn::Set(kHalves, 0x7f));
  const Halves lowest = hn::Add(hn::ShiftLeft<7>(magnitudes), hn::Set(kHalves, 0x3a80));  // codes 1 and 2
  const Halves low = hn::Add(hn::ShiftLeft<6>(magnitudes), hn::Set(kHalves, 0x3b00));     // 2 to 4
  const Halves middle = hn::Add(hn::ShiftLeft<5>(magnitudes), hn::Set(kHalves, 0x3b80));  // 4 to 8
  const Halves normal = hn::Add(hn::ShiftLeft<4>(magnitudes), hn::Set(kHalves, 0x3c00));  // from 8 on
  const Halves chain = hn::Min(hn::Min(lowest, low), hn::Min(middle, normal));
  const Halves numbers = hn::IfThenZeroElse(hn::Eq(magnitudes, hn::Zero(kHalves)), chain);
  const auto nan = hn::Eq(magnitudes, hn::Set(kHalves, 0x7f));
  const Halves values = hn::Or(numbers, hn::IfThenElseZero(nan, hn::Set(kHalves, 0x7f80)));
  const Halves signs = hn::ShiftLeft<8>(hn::Xor(codes, magnitudes));
  const hn::RebindToUnsigned<decltype(kHalves)> unsigned_halves;
  hn::StoreU(hn::BitCast(unsigned_halves, hn::Or(values, signs)), unsigned_halves, to);
}

// values * scale, rounded to fp32 so that rounding it to bfloat16 is as rounding once: see ScaledE4M3.
HWY_INLINE Floats ScaledForHalves(Floats values, float scale) {
  const Floats products = hn::Mul(values, hn::Set(kFloats, scale));
  const auto bits = hn::BitCast(kInts, products);
  const auto halfway = hn::Eq(hn::And(bits, hn::Set(kInts, 0xffff)), hn::Set(kInts, 0x8000));
  if (HWY_LIKELY(hn::AllFalse(kInts, halfway))) return products;
  const float upper = FloatOfBits(FloatBits(scale) & 0xfffff000u);
  const Floats errors = hn::Add(hn::Sub(hn::Mul(values, hn::Set(kFloats, upper)), products),
                                hn::Mul(values, hn::Set(kFloats, scale - upper)));
  const auto inexact = hn::RebindMask(kInts, hn::Ne(errors, hn::Zero(kFloats)));
  const auto apart = hn::ShiftRight<31>(hn::BitCast(kInts, hn::Xor(errors, products)));  // -1 where their signs differ
  const auto step = hn::IfThenElseZero(hn::And(halfway, inexact), hn::Or(apart, hn::Set(kInts, 1)));
  return hn::BitCast(kFloats, hn::Add(bits, step));
}

// ---- the kernels ----------------------------------------------------------------------------------------------------

// Integers as wide as T that order T's magnitudes.
template <typename T>
using MagnitudeTag = hn::ScalableTag<std::conditional_t<sizeof(T) == 4, int32_t, int16_t>>;

template <typename T>
HWY_INLINE auto LoadMagnitudes(const T* from) {
  const MagnitudeTag<T> d;
  using Integer = hn::TFromD<decltype(d)>;
  const auto bits = hn::LoadU(d, reinterpret_cast<const Integer*>(from));
  return hn::And(bits, hn::Set(d, hwy::LimitsMax<Integer>()));
}

template <typename T>
float AbsMax(const T* x, size_t n) {
  const MagnitudeTag<T> d;
  const size_t lanes = hn::Lanes(d);
  auto largest = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) largest = hn::Max(largest, LoadMagnitudes(x + i));
  const Padded<T, decltype(d)> rest(x + i, n - i);
  largest = hn::Max(largest, LoadMagnitudes(rest.lanes));
  const auto bits = static_cast<uint32_t>(hn::GetLane(hn::MaxOfLanes(d, largest)));
  return FloatOfBits(sizeof(T) == 4 ? bits : bits << 16);
}

template <typename T>
size_t CountSaturated(const T* x, size_t n, float limit) {
  const MagnitudeTag<T> d;
  using Integer = hn::TFromD<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  // A bfloat16 is above the limit if it is above the limit rounded down.
  const auto limits = hn::Set(d, static_cast<Integer>(MagnitudeBits(limit) >> (sizeof(T) == 4 ? 0 : 16)));
  size_t count = 0, i = 0;
  for (; i + lanes <= n; i += lanes) count += hn::CountTrue(d, hn::Gt(LoadMagnitudes(x + i), limits));
  const Padded<T, decltype(d)> rest(x + i, n - i);
  return count + hn::CountTrue(d, hn::Gt(LoadMagnitudes(rest.lanes), limits));
}

template <typename T>
void QuantizeE4M3(const T* x, size_t n, float inverse_scale, uint8_t* codes) {
  const auto quantize = [inverse = hn::Set(kFloats, inverse_scale)](uint8_t* to, const T* from) HWY_ATTR {
    const Bits bytes = E4M3Codes(LoadFloats(from), inverse);
    hn::StoreU(hn::DemoteTo(LanesOf<uint8_t>(), hn::BitCast(kInts, bytes)), LanesOf<uint8_t>(), to);
  };
  MapRow(kFloats, n, quantize, codes, x);
}

template <typename T>
void RoundTripE4M3(const T* x, size_t n, float inverse_scale, float* values) {
  const auto round = [inverse = hn::Set(kFloats, inverse_scale)](float* to, const T* from)
                         HWY_ATTR { StoreFloats(E4M3RoundTrips(LoadFloats(from), inverse), to); };
  MapRow(kFloats, n, round, values, x);
}

template <typename T>
void QuantizeInt8(const T* x, size_t n, float inverse_scale, int8_t* codes) {
  const auto quantize = [inverse = hn::Set(kFloats, inverse_scale)](int8_t* to, const T* from) HWY_ATTR {
    const Floats products = hn::Mul(LoadFloats(from), inverse);
    const Floats numbers = hn::IfThenZeroElse(hn::IsNaN(products), products);
    const Floats clamped = hn::Min(hn::Max(numbers, hn::Set(kFloats, -kInt8Largest)), hn::Set(kFloats, kInt8Largest));
    const auto sums = hn::BitCast(kInts, hn::Add(clamped, hn::Set(kFloats, 0x1.8p23f)));
    const auto integers = hn::Sub(sums, hn::Set(kInts, 0x4b400000));
    hn::StoreU(hn::DemoteTo(LanesOf<int8_t>(), integers), LanesOf<int8_t>(), to);
  };
  MapRow(kFloats, n, quantize, codes, x);
}

void ExpandE4M3(const uint8_t* codes, size_t n, float* values) {
  const auto expand = [](float* to, const uint8_t* from) HWY_ATTR { StoreFloats(E4M3Values(from), to); };
  MapRow(kFloats, n, expand, values, codes);
}

void ExpandE4M3(const uint8_t* codes, size_t n, uint16_t* values) {
  const auto expand = [](uint16_t* to, const uint8_t* from) HWY_ATTR { ExpandToHalves(to, from); };
  MapRow(kHalves, n, expand, values, codes);
}

void ExpandE4M3Scaled(const uint8_t* codes, size_t n, float scale, float* values) {
  const auto expand = [scales = hn::Set(kFloats, scale)](float* to, const uint8_t* from)
                          HWY_ATTR { StoreFloats(hn::Mul(E4M3Values(from), scales), to); };
  MapRow(kFloats, n, expand, values, codes);
}

void ExpandEachE4M3Scaled(const uint8_t* codes, size_t n, float scale, uint16_t* values) {
  const auto expand = [scale](uint16_t* to, const uint8_t* from)
                          HWY_ATTR { StoreFloats(ScaledForHalves(E4M3Values(from), scale), to); };
  MapRow(kFloats, n, expand, values, codes);
}

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3

// What every magnitude becomes with a row's scale, in four registers: with it a code is looked up, 32 at a time.
struct ScaledMagnitudes {
  explicit ScaledMagnitudes(float scale) {
    uint8_t codes[128];
    for (size_t i = 0; i < std::size(codes); ++i) codes[i] = static_cast<uint8_t>(i);
    ExpandEachE4M3Scaled(codes, std::size(codes), scale, values);
  }
  uint16_t values[128];
};

void ExpandE4M3Scaled(const uint8_t* codes, size_t n, float scale, uint16_t* values) {
  if (n < 256) return ExpandEachE4M3Scaled(codes, n, scale, values);  // the table would not pay
  const ScaledMagnitudes table(scale);
  const __m512i first = _mm512_loadu_si512(table.values), second = _mm512_loadu_si512(table.values + 32);
  const __m512i third = _mm512_loadu_si512(table.values + 64), fourth = _mm512_loadu_si512(table.values + 96);
  const auto expand = [=](uint16_t* to, const uint8_t* from) HWY_ATTR {
    const __m512i wide = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    const __m512i magnitudes = _mm512_and_si512(wide, _mm512_set1_epi16(0x7f));
    const __m512i lower = _mm512_permutex2var_epi16(first, magnitudes, second);
    const __m512i upper = _mm512_permutex2var_epi16(third, magnitudes, fourth);
    const __mmask32 is_upper = _mm512_test_epi16_mask(magnitudes, _mm512_set1_epi16(0x40));
    const __m512i numbers = _mm512_mask_blend_epi16(is_upper, lower, upper);
    const __mmask32 is_number = _mm512_cmple_epu16_mask(numbers, _mm512_set1_epi16(0x7f80));  // a NaN gets no sign
    const __m512i signs = _mm512_maskz_slli_epi16(is_number, _mm512_xor_si512(wide, magnitudes), 8);
    _mm512_storeu_si512(to, _mm512_or_si512(numbers, signs));
  };
  MapRow(kHalves, n, expand, values, codes);
}

#else

void ExpandE4M3Scaled(const uint8_t* codes, size_t n, float scale, uint16_t* values) {
  ExpandEachE4M3Scaled(codes, n, scale, values);
}

#endif

template <typename T>
void ExpandInt8Scaled(const int8_t* codes, size_t n, float scale, T* values) {
  const auto expand = [scales = hn::Set(kFloats, scale)](T* to, const int8_t* from) HWY_ATTR {
    const auto numbers = hn::PromoteTo(kInts, hn::LoadU(LanesOf<int8_t>(), from));
    StoreFloats(hn::Mul(hn::ConvertTo(kFloats, numbers), scales), to);
  };
  MapRow(kFloats, n, expand, values, codes);
}

void Widen(const uint16_t* x, size_t n, float* values) {
  const auto widen = [](float* to, const uint16_t* from) HWY_ATTR { StoreFloats(LoadFloats(from), to); };
  MapRow(kFloats, n, widen, values, x);
}

// Four sums at a time, as each has to wait for its last one.
float Dot(const float* x, const float* y, size_t n) {
  const size_t lanes = hn::Lanes(kFloats);
  Floats sums[4] = {hn::Zero(kFloats), hn::Zero(kFloats), hn::Zero(kFloats), hn::Zero(kFloats)};
  size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    sums[0] = hn::MulAdd(LoadFloats(x + i), LoadFloats(y + i), sums[0]);
    sums[1] = hn::MulAdd(LoadFloats(x + i + lanes), LoadFloats(y + i + lanes), sums[1]);
    sums[2] = hn::MulAdd(LoadFloats(x + i + 2 * lanes), LoadFloats(y + i + 2 * lanes), sums[2]);
    sums[3] = hn::MulAdd(LoadFloats(x + i + 3 * lanes), LoadFloats(y + i + 3 * lanes), sums[3]);
  }
  for (; i < n; i += lanes) {
    const size_t rest = n - i < lanes ? n - i : lanes;
    const Padded<float, decltype(kFloats)> x_end(x + i, rest), y_end(y + i, rest);
    sums[0] = hn::MulAdd(LoadFloats(x_end.lanes), LoadFloats(y_end.lanes), sums[0]);
  }
  const Floats sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  return hn::GetLane(hn::SumOfLanes(kFloats, sum));
}

template <typename Sum, typename T>
void Dequantize(const Sum* sums, size_t n, float row_scale, const float* column_scales, const float* bias, T* values) {
  const auto row = hn::Set(kFloats, row_scale);
  const auto scaled = [row](const Sum* sum, const float* column_scale)
                          HWY_ATTR { return hn::Mul(LoadFloats(sum), hn::Mul(row, LoadFloats(column_scale))); };
  const auto plain = [&](T* to, const Sum* sum, const float* column_scale)
                         HWY_ATTR { StoreFloats(scaled(sum, column_scale), to); };
  const auto biased = [&](T* to, const Sum* sum, const float* column_scale, const float* addend)
                          HWY_ATTR { StoreFloats(hn::Add(scaled(sum, column_scale), LoadFloats(addend)), to); };
  if (bias == nullptr) {
    MapRow(kFloats, n, plain, values, sums, column_scales);
  } else {
    MapRow(kFloats, n, biased, values, sums, column_scales, bias);
  }
}

template <typename T>
const RowKernelTable<T>& TableOf() {
  static constexpr RowKernelTable<T> kTable = {
      .abs_max = AbsMax<T>,
      .count_saturated = CountSaturated<T>,
      .quantize_e4m3 = QuantizeE4M3<T>,
      .round_trip_e4m3 = RoundTripE4M3<T>,
      .quantize_int8 = QuantizeInt8<T>,
      .expand_e4m3 = ExpandE4M3,
      .expand_e4m3_scaled = ExpandE4M3Scaled,
      .expand_int8_scaled = ExpandInt8Scaled<T>,
      .dequantize_int32 = Dequantize<int32_t, T>,
      .scale_columns = Dequantize<float, T>,
  };
  return kTable;
}

}  // namespace

const FloatKernelTable& FloatsTable() {
  static constexpr FloatKernelTable kTable = {.widen = Widen, .dot = Dot};
  return kTable;
}

const RowKernelTable<float>& FloatTable() {
  return TableOf<float>();
}

const RowKernelTable<uint16_t>& BFloat16Table() {
  return TableOf<uint16_t>();
}

}  // namespace HWY_NAMESPACE
}  // namespace fresco::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fresco::kernels {
namespace {

HWY_EXPORT(FloatsTable);
HWY_EXPORT(FloatTable);
HWY_EXPORT(BFloat16Table);

const RowKernelTable<float>& Table(const float*) {
  return HWY_DYNAMIC_DISPATCH(FloatTable)();
}

const RowKernelTable<uint16_t>& Table(const uint16_t*) {
  return HWY_DYNAMIC_DISPATCH(BFloat16Table)();
}

}  // namespace

float AbsMax(std::span<const float> x) {
  return Table(x.data()).abs_max(x.data(), x.size());
}
float AbsMax(std::span<const BFloat16Bits> x) {
  return Table(x.data()).abs_max(x.data(), x.size());
}

size_t CountSaturated(std::span<const float> x, float limit) {
  return Table(x.data()).count_saturated(x.data(), x.size(), limit);
}
size_t CountSaturated(std::span<const BFloat16Bits> x, float limit) {
  return Table(x.data()).count_saturated(x.data(), x.size(), limit);
}

void QuantizeE4M3(std::span<const float> x, float inverse_scale, uint8_t* codes) {
  Table(x.data()).quantize_e4m3(x.data(), x.size(), inverse_scale, codes);
}
void QuantizeE4M3(std::span<const BFloat16Bits> x, float inverse_scale, uint8_t* codes) {
  Table(x.data()).quantize_e4m3(x.data(), x.size(), inverse_scale, codes);
}

void RoundTripE4M3(std::span<const float> x, float inverse_scale, float* values) {
  Table(x.data()).round_trip_e4m3(x.data(), x.size(), inverse_scale, values);
}
void RoundTripE4M3(std::span<const BFloat16Bits> x, float inverse_scale, float* values) {
  Table(x.data()).round_trip_e4m3(x.data(), x.size(), inverse_scale, values);
}

void QuantizeInt8(std::span<const float> x, float inverse_scale, int8_t* codes) {
  Table(x.data()).quantize_int8(x.data(), x.size(), inverse_scale, codes);
}
void QuantizeInt8(std::span<const BFloat16Bits> x, float inverse_scale, int8_t* codes) {
  Table(x.data()).quantize_int8(x.data(), x.size(), inverse_scale, codes);
}

void ExpandE4M3(std::span<const uint8_t> codes, float* values) {
  Table(values).expand_e4m3(codes.data(), codes.size(), values);
}
void ExpandE4M3(std::span<const uint8_t> codes, BFloat16Bits* values) {
  Table(values).expand_e4m3(codes.data(), codes.size(), values);
}

void ExpandE4M3Scaled(std::span<const uint8_t> codes, float scale, float* values) {
  Table(values).expand_e4m3_scaled(codes.data(), codes.size(), scale, values);
}
void ExpandE4M3Scaled(std::span<const uint8_t> codes, float scale, BFloat16Bits* values) {
  Table(values).expand_e4m3_scaled(codes.data(), codes.size(), scale, values);
}

void Widen(std::span<const BFloat16Bits> x, float* values) {
  HWY_DYNAMIC_DISPATCH(FloatsTable)().widen(x.data(), x.size(), values);
}

float Dot(std::span<const float> x, const float* y) {
  return HWY_DYNAMIC_DISPATCH(FloatsTable)().dot(x.data(), y, x.size());
}

void ExpandInt8Scaled(std::span<const int8_t> codes, float scale, float* values) {
  Table(values).expand_int8_scaled(codes.data(), codes.size(), scale, values);
}
void ExpandInt8Scaled(std::span<const int8_t> codes, float scale, BFloat16Bits* values) {
  Table(values).expand_int8_scaled(codes.data(), codes.size(), scale, values);
}

void DequantizeInt32(std::span<const int32_t> sums, float row_scale, const float* column_scales, const float* bias,
                     float* values) {
  Table(values).dequantize_int32(sums.data(), sums.size(), row_scale, column_scales, bias, values);
}
void DequantizeInt32(std::span<const int32_t> sums, float row_scale, const float* column_scales, const float* bias,
                     BFloat16Bits* values) {
  Table(values).dequantize_int32(sums.data(), sums.size(), row_scale, column_scales, bias, values);
}

void ScaleColumns(std::span<const float> sums, float row_scale, const float* column_scales, const float* bias,
                  float* values) {
  Table(values).scale_columns(sums.data(), sums.size(), row_scale, column_scales, bias, values);
}
void ScaleColumns(std::span<const float> sums, float row_scale, const float* column_scales, const float* bias,
                  BFloat16Bits* values) {
  Table(values).scale_columns(sums.data(), sums.size(), row_scale, column_scales, bias, values);
}

}  // namespace fresco::kernels
#endif  // HWY_ONCE
