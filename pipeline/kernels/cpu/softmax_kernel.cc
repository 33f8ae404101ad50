// Compiled once per instruction set, as row_kernels.cc.
#include "pipeline/kernels/cpu/softmax_kernel.h"

#include <cstdint>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "pipeline/kernels/cpu/softmax_kernel.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, whose namespaces they are compiled into.
#include "hwy/contrib/math/math-inl.h"
#include "pipeline/kernels/cpu/float_vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fresco::kernels {
namespace HWY_NAMESPACE {
namespace {

// The lanes of a row from i on; behind its end, the row's first score, which changes no maximum.
HWY_INLINE Floats LoadEnd(const float* scores, size_t i, size_t n) {
  float lanes[hn::MaxLanes(kFloats)];
  for (float& lane : lanes) lane = i < n ? scores[i++] : scores[0];
  return hn::LoadU(kFloats, lanes);
}

float MaxOf(const float* scores, size_t n) {
  const size_t lanes = hn::Lanes(kFloats);
  Floats largest = hn::Set(kFloats, scores[0]);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) largest = hn::Max(largest, hn::LoadU(kFloats, scores + i));
  if (i < n) largest = hn::Max(largest, LoadEnd(scores, i, n));
  return hn::GetLane(hn::MaxOfLanes(kFloats, largest));
}

// Highway's Exp makes 0 of a NaN, and where vectors are emulated casts it to an integer, which is undefined.
HWY_INLINE Floats WeightsOf(Floats scores, Floats largest, Floats scale) {
  const Floats exponents = hn::Mul(hn::Sub(scores, largest), scale);
  const auto none = hn::IsNaN(exponents);
  return hn::IfThenElse(none, exponents, hn::Exp(kFloats, hn::IfThenZeroElse(none, exponents)));
}

}  // namespace

float SoftmaxWeights(const float* scores, size_t n, float scale, uint16_t* weights) {
  const size_t lanes = hn::Lanes(kFloats);
  const Floats largest = hn::Set(kFloats, MaxOf(scores, n)), scales = hn::Set(kFloats, scale);
  Floats sum = hn::Zero(kFloats);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Floats values = WeightsOf(hn::LoadU(kFloats, scores + i), largest, scales);
    sum = hn::Add(sum, values);
    StoreFloats(values, weights + i);
  }
  if (i < n) {
    const Floats values = WeightsOf(LoadEnd(scores, i, n), largest, scales);
    sum = hn::Add(sum, hn::IfThenElseZero(hn::FirstN(kFloats, n - i), values));
    uint16_t end[hn::MaxLanes(kFloats)];
    StoreFloats(values, end);
    memcpy(weights + i, end, (n - i) * sizeof(uint16_t));
  }
  return hn::GetLane(hn::SumOfLanes(kFloats, sum));
}

}  // namespace HWY_NAMESPACE
}  // namespace fresco::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fresco::kernels {
namespace {

HWY_EXPORT(SoftmaxWeights);

}  // namespace

float SoftmaxWeights(std::span<const float> scores, float scale, BFloat16::Storage* weights) {
  return HWY_DYNAMIC_DISPATCH(SoftmaxWeights)(scores.data(), scores.size(), scale, weights);
}

}  // namespace fresco::kernels
#endif  // HWY_ONCE
