// The arithmetic of rows in eight bits, element by element: what every kernel, on CPU or GPU, computes bit for bit.
//   scale = absmax / 448 (E4M3) or absmax / 127 (int8), of the row's largest magnitude     value ~ code * scale
//   code  = x * (1 / scale), the reciprocal taken once in fp32, rounded to nearest even, ties included
// Formats: E4M3 is E4M3FN (no infinity, NaN 0x7f and 0xff, largest 448, smallest normal 2^-6, smallest subnormal 2^-9);
// int8 codes lie in [-127, 127].
// With RowScale's scales no scale and no code depends on whether the processor flushes denormals to zero; products of
// codes and scales do where they are denormal themselves. Rounding must be to nearest, as it is unless a program
// changes it. Shared by host and device code, so that its tests run without a GPU.
#pragma once

#include <cfloat>

#include "pipeline/kernels/element_types.h"

namespace fresco::kernels {

constexpr float kE4M3Largest = 448;
constexpr float kInt8Largest = 127;
constexpr float kSmallestScale = 0x1p-100f;

// Bits that order floats by magnitude: NaN is above infinity, so the largest of a row is NaN where one element is.
FRESCO_HOST_DEVICE uint32_t MagnitudeBits(float value) {
  return FloatBits(value) & 0x7fffffffu;
}

// ---- scales ---------------------------------------------------------------------------------------------------------

// The scale of a row with this largest magnitude. 1 where absmax / largest is below kSmallestScale: such a row's codes
// are all zero, as those of a row of zeros, and neither a scale nor its reciprocal is ever denormal or infinite. NaN
// where absmax is not finite: an infinity or NaN makes the row's every product NaN, in int8 too, whose codes have no
// NaN.
FRESCO_HOST_DEVICE float RowScale(float absmax, float largest) {
  if (!(absmax <= FLT_MAX)) return FloatOfBits(0x7fc00000u);
  const float scale = Divide(absmax, largest);
  return scale < kSmallestScale ? 1.0f : scale;
}

FRESCO_HOST_DEVICE float E4M3Scale(float absmax) {
  return RowScale(absmax, kE4M3Largest);
}

FRESCO_HOST_DEVICE float Int8Scale(float absmax) {
  return RowScale(absmax, kInt8Largest);
}

FRESCO_HOST_DEVICE float InverseScale(float scale) {
  return Divide(1.0f, scale);
}

// ---- E4M3 and E5M2 --------------------------------------------------------------------------------------------------

// The code, without a sign, of a magnitude: clamped to 448, rounded to nearest even; 0x7f for NaN.
FRESCO_HOST_DEVICE uint8_t E4M3Magnitude(uint32_t magnitude_bits) {
  if (magnitude_bits > 0x7f800000u) return 0x7f;
  const uint32_t largest = 0x43e00000u, smallest_normal = 0x3c800000u;  // 448, 2^-6
  const uint32_t bits = magnitude_bits < largest ? magnitude_bits : largest;
  const uint32_t power = bits & 0x7f800000u;
  const uint32_t binade = power > smallest_normal ? power : smallest_normal;
  // 2^20 times the binade has its last place at the third bit of the mantissa, where the sum is rounded to nearest
  // even.
  const uint32_t large = binade + (20u << 23);
  const uint32_t places = FloatBits(FloatOfBits(bits) + FloatOfBits(large)) - large;  // 0..16
  return static_cast<uint8_t>(places + ((binade - smallest_normal) >> 20));
}

// As libtorch's clamp(x, -448, 448).to(float8_e4m3fn): NaN keeps its sign, infinity saturates.
FRESCO_HOST_DEVICE uint8_t ToE4M3(float value) {
  return static_cast<uint8_t>((FloatBits(value) >> 24 & 0x80u) | E4M3Magnitude(MagnitudeBits(value)));
}

// Exact; NaN keeps its sign (bits 0x7ff00000, as libtorch's).
FRESCO_HOST_DEVICE float FromE4M3(uint8_t code) {
  const uint32_t magnitude = code & 0x7fu, sign = (code & 0x80u) << 24;
  if (magnitude == 0x7f) return FloatOfBits(sign | 0x7ff00000u);
  // Of two lines: the normal numbers' value, and the subnormal ones', which is lower below 2^-6 and higher above.
  const float normal = FloatOfBits((magnitude << 20) + (120u << 23));
  const float subnormal = normal + normal - 0x1p-6f;
  return FloatOfBits(sign | FloatBits(normal < subnormal ? normal : subnormal));
}

// Exact, infinities included; NaN keeps its sign and is quiet.
FRESCO_HOST_DEVICE float FromE5M2(uint8_t code) {
  const uint32_t magnitude = code & 0x7fu, sign = (code & 0x80u) << 24;
  if (magnitude > 0x7c) return FloatOfBits(sign | 0x7fc00000u | (magnitude << 21));
  if (magnitude == 0x7c) return FloatOfBits(sign | 0x7f800000u);
  const float normal = FloatOfBits((magnitude << 21) + (112u << 23));
  const float subnormal = normal + normal - 0x1p-14f;
  return FloatOfBits(sign | FloatBits(normal < subnormal ? normal : subnormal));
}

// ---- codes of a row's elements --------------------------------------------------------------------------------------

// ToE4M3(x * inverse), with the sign of x also where the product is NaN (whose sign differs between processors).
// `inverse`: InverseScale of the row's scale; not negative.
FRESCO_HOST_DEVICE uint8_t E4M3Code(float x, float inverse) {
  const uint8_t magnitude = E4M3Magnitude(MagnitudeBits(Multiply(x, inverse)));
  return static_cast<uint8_t>((FloatBits(x) >> 24 & 0x80u) | magnitude);
}

// x * inverse, rounded to nearest even and clamped to [-127, 127]. A NaN product gives 0: it is the scale that must
// tell, as RowScale's does; where scales are fixed beforehand, CountSaturated (cpu/row_kernels.h) finds NaN and
// infinity.
FRESCO_HOST_DEVICE int8_t Int8Code(float x, float inverse) {
  const float product = Multiply(x, inverse);
  if (product != product) return 0;
  const float low = product < -kInt8Largest ? -kInt8Largest : product;
  const float clamped = low > kInt8Largest ? kInt8Largest : low;
  // 1.5 * 2^23 has its last place at 1, where the sum is rounded; its last byte is the integer.
  return static_cast<int8_t>(FloatBits(clamped + 0x1.8p23f) & 0xffu);
}

// ---- back to values -------------------------------------------------------------------------------------------------

// Rounds FromE4M3(code) * scale once, to an element of Type. (Through fp32 to bfloat16 it would be rounded twice.)
// Exact up to that rounding for scales from kSmallestScale on if denormals are kept, from 2^-90 on if flushed to zero.
template <typename Type>
FRESCO_HOST_DEVICE typename Type::Storage ScaledE4M3(uint8_t code, float scale);

template <>
FRESCO_HOST_DEVICE float ScaledE4M3<Float32>(uint8_t code, float scale) {
  return Multiply(FromE4M3(code), scale);
}

template <>
FRESCO_HOST_DEVICE uint16_t ScaledE4M3<BFloat16>(uint8_t code, float scale) {
  const float value = FromE4M3(code), product = Multiply(value, scale);
  const uint32_t bits = FloatBits(product);
  if ((bits & 0xffffu) != 0x8000u) return BFloat16::Store(product);
  // The fp32 product lies halfway between two bfloat16: on which side the exact one lies decides. The products of the
  // value and the scale's upper and lower half are exact.
  const float upper = FloatOfBits(FloatBits(scale) & 0xfffff000u);
  const float error = (Multiply(value, upper) - product) + Multiply(value, scale - upper);
  if (!(error < 0 || error > 0)) return BFloat16::Store(product);
  return BFloat16::Store(FloatOfBits((error < 0) == (product < 0) ? bits + 1 : bits - 1));
}

// One element of a product of codes, back in units: sum * (row_scale * column_scale) [+ bias], where the scales'
// product, the product and the sum are each rounded to fp32; the result is then rounded to the element it is stored in.
// An int32 sum is first rounded to fp32.
FRESCO_HOST_DEVICE float Dequantized(float sum, float row_scale, float column_scale) {
  return Multiply(sum, Multiply(row_scale, column_scale));
}

FRESCO_HOST_DEVICE float Dequantized(float sum, float row_scale, float column_scale, float bias) {
  return Dequantized(sum, row_scale, column_scale) + bias;
}

}  // namespace fresco::kernels
