// Compiled once per instruction set, as row_kernels.cc.
#include "pipeline/kernels/cpu/pack_kernel.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "pipeline/kernels/cpu/pack_kernel.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fresco::kernels {
namespace HWY_NAMESPACE {
namespace {

// Columns [first, columns), terms [begin, terms).
void PackEach(const uint8_t* codes, size_t stride, size_t first, size_t columns, size_t begin, size_t terms,
              uint8_t* pairs) {
  for (size_t column = first; column < columns; ++column) {
    for (size_t term = begin; term < terms; term += 2)
      memcpy(pairs + term * columns + 2 * column, codes + column * stride + term, 2);
  }
}

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3

constexpr size_t kSide = 8;  // columns, and terms of each, that are one register

HWY_INLINE int64_t LoadEight(const uint8_t* codes) {
  int64_t eight;
  memcpy(&eight, codes, sizeof(eight));
  return eight;
}

// Eight columns' next eight terms.
HWY_INLINE __m512i LoadSquare(const uint8_t* codes, size_t stride) {
  return _mm512_set_epi64(LoadEight(codes + 7 * stride), LoadEight(codes + 6 * stride), LoadEight(codes + 5 * stride),
                          LoadEight(codes + 4 * stride), LoadEight(codes + 3 * stride), LoadEight(codes + 2 * stride),
                          LoadEight(codes + stride), LoadEight(codes));
}

HWY_INLINE void StoreSixteen(__m128i codes, uint8_t* to) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), codes);
}

}  // namespace

void PackPairs(const uint8_t* codes, size_t stride, size_t columns, size_t terms, uint8_t* pairs) {
  const size_t whole_columns = columns / kSide * kSide, whole_terms = terms / kSide * kSide;
  // A pair is a lane of 16 bits: lane 8 * pair + column is what was lane 4 * column + pair.
  alignas(64) uint16_t lanes[32];
  for (uint16_t i = 0; i < 32; ++i) lanes[i] = static_cast<uint16_t>(4 * (i % 8) + i / 8);
  const __m512i order = _mm512_load_si512(lanes);
  for (size_t column = 0; column < whole_columns; column += kSide) {
    for (size_t term = 0; term < whole_terms; term += kSide) {
      const __m512i square = LoadSquare(codes + column * stride + term, stride);
      const __m512i turned = _mm512_permutexvar_epi16(order, square);
      uint8_t* const to = pairs + term * columns + 2 * column;
      StoreSixteen(_mm512_castsi512_si128(turned), to);
      StoreSixteen(_mm512_extracti32x4_epi32(turned, 1), to + 2 * columns);
      StoreSixteen(_mm512_extracti32x4_epi32(turned, 2), to + 4 * columns);
      StoreSixteen(_mm512_extracti32x4_epi32(turned, 3), to + 6 * columns);
    }
  }
  PackEach(codes, stride, 0, columns, whole_terms, terms, pairs);
  PackEach(codes, stride, whole_columns, columns, 0, whole_terms, pairs);
}

#else

}  // namespace

void PackPairs(const uint8_t* codes, size_t stride, size_t columns, size_t terms, uint8_t* pairs) {
  PackEach(codes, stride, 0, columns, 0, terms, pairs);
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace fresco::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fresco::kernels {
namespace {

HWY_EXPORT(PackPairs);

}  // namespace

void PackPairs(const uint8_t* codes, size_t stride, size_t columns, size_t terms, uint8_t* pairs) {
  HWY_DYNAMIC_DISPATCH(PackPairs)(codes, stride, columns, terms, pairs);
}

}  // namespace fresco::kernels
#endif  // HWY_ONCE
