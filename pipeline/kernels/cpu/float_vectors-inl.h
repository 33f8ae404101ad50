// Vectors of floats, and how they become bfloat16. For files that are compiled once per instruction set, as
// row_kernels.cc says, each time with another HWY_NAMESPACE: this one is included as often.
#if defined(FRESCO_FLOAT_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FRESCO_FLOAT_VECTORS_INL_H_
#undef FRESCO_FLOAT_VECTORS_INL_H_
#else
#define FRESCO_FLOAT_VECTORS_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fresco::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Vectors of floats, and what has as many lanes of other types.
constexpr hn::ScalableTag<float> kFloats;
constexpr hn::RebindToUnsigned<decltype(kFloats)> kBits;
constexpr hn::RebindToSigned<decltype(kFloats)> kInts;
template <typename T>
using LanesOf = hn::Rebind<T, decltype(kFloats)>;
using Floats = hn::VFromD<decltype(kFloats)>;
using Bits = hn::VFromD<decltype(kBits)>;

HWY_INLINE void StoreFloats(Floats values, float* to) {
  hn::StoreU(values, kFloats, to);
}

// As BFloat16::Store.
HWY_INLINE void StoreFloats(Floats values, uint16_t* to) {
  const Bits bits = hn::BitCast(kBits, values);
  const Bits odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(kBits, 1));
  const Bits rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(kBits, 0x7fff)), odd));
  const auto nan = hn::RebindMask(kBits, hn::IsNaN(values));
  const Bits halves = hn::IfThenElse(nan, hn::Set(kBits, 0x7fc0), rounded);
  hn::StoreU(hn::DemoteTo(LanesOf<uint16_t>(), hn::BitCast(kInts, halves)), LanesOf<uint16_t>(), to);
}

}  // namespace HWY_NAMESPACE
}  // namespace fresco::kernels
HWY_AFTER_NAMESPACE();

#endif  // per target
