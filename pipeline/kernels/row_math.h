// The arithmetic of the row kernels beyond codes (e4m3.h), element by element, in fp32. Every operation is one that
// rounds once and alike on CPU and GPU, so that a GPU's results are a CPU's, bit for bit. Shared by host and device
// code.
#pragma once

#include "pipeline/kernels/e4m3.h"
#include "pipeline/kernels/element_types.h"

namespace fresco::kernels {

// ---- normalisation and modulation -----------------------------------------------------------------------------------

// 1 / sqrt(sum_of_squares / n + eps).
FRESCO_HOST_DEVICE float InverseDeviation(float sum_of_squares, int n, float eps) {
  return Reciprocal(SquareRoot(Divide(sum_of_squares, static_cast<float>(n)) + eps));
}

// (x - mean) * inverse_deviation * (1 + scale) + shift.
FRESCO_HOST_DEVICE float NormModulated(float x, float mean, float inverse_deviation, float scale, float shift) {
  return MultiplyAdd(Multiply(x - mean, inverse_deviation), 1.0f + scale, shift);
}

// x + gate * branch.
FRESCO_HOST_DEVICE float Gated(float x, float gate, float branch) {
  return MultiplyAdd(gate, branch, x);
}

// ---- GELU -----------------------------------------------------------------------------------------------------------

// 2^x to 2 units in the last place; infinity from 128 on and for NaN, 2^-126 below -126.
FRESCO_HOST_DEVICE float Exp2(float x) {
  const float low = x < 128.0f ? x : 128.0f;
  const float clamped = low > -126.0f ? low : -126.0f;
  // 1.5 * 2^23 has its last place at 1, where the sum is rounded to the nearest integer.
  const float shifted = clamped + 0x1.8p23f;
  const float f = clamped - (shifted - 0x1.8p23f);  // [-1/2, 1/2]
  // The polynomial through 1 with the least relative error there, 9.2e-8 (in exact arithmetic).
  float power = MultiplyAdd(0x1.5bba14p-10f, f, 0x1.3cea88p-7f);
  power = MultiplyAdd(power, f, 0x1.c6b752p-5f);
  power = MultiplyAdd(power, f, 0x1.ebf9bcp-3f);
  power = MultiplyAdd(power, f, 0x1.62e42ap-1f);
  power = MultiplyAdd(power, f, 1.0f);
  return FloatOfBits(FloatBits(power) + (FloatBits(shifted) << 23));
}

// x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3), by way of (1 + tanh u) / 2 = 1 / (1 + e^(-2u)).
FRESCO_HOST_DEVICE float GeluTanhOf(float x) {
  constexpr float kLinear = -2.302208185f;  // -2 sqrt(2/pi) log2(e)
  constexpr float kCubic = -0.1029432416f;  // 0.044715 of it
  const float exponent = Multiply(x, MultiplyAdd(Multiply(x, x), kCubic, kLinear));
  return Multiply(x, Reciprocal(1.0f + Exp2(exponent)));
}

// ---- codes, four at once --------------------------------------------------------------------------------------------

// ToE4M3(x[i]) at byte i, of NaN a NaN: what the instruction of GPUs that have one gives.
FRESCO_HOST_DEVICE uint32_t FourE4M3Codes(const float* x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(low) : "f"(x[0]), "f"(x[1]));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(high) : "f"(x[2]), "f"(x[3]));
  return static_cast<uint32_t>(high) << 16 | low;
#else
  uint32_t codes = 0;
  for (int i = 0; i < 4; ++i) codes |= static_cast<uint32_t>(ToE4M3(x[i])) << (8 * i);
  return codes;
#endif
}

// E4M3Code(x[i], inverse) at byte i, for finite x and inverse.
FRESCO_HOST_DEVICE uint32_t FourE4M3Codes(const float* x, float inverse) {
  const float products[4] = {Multiply(x[0], inverse), Multiply(x[1], inverse), Multiply(x[2], inverse),
                             Multiply(x[3], inverse)};
  return FourE4M3Codes(products);
}

}  // namespace fresco::kernels
