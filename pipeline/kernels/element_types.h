// The types of array elements and the operations that must round alike on CPU and GPU. Shared by host and device code.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FRESCO_HOST_DEVICE __host__ __device__ inline
#else
#define FRESCO_HOST_DEVICE inline
#endif

namespace fresco::kernels {

FRESCO_HOST_DEVICE uint32_t FloatBits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

FRESCO_HOST_DEVICE float FloatOfBits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// What a compiler must not contract into a fused multiply-add: eager tensors round the product first.
FRESCO_HOST_DEVICE float Multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  volatile float product = a * b;
  return product;
#endif
}

// Rounded to nearest, whatever a device's compiler is told about speed.
FRESCO_HOST_DEVICE float Divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

// 1 / a, rounded once.
FRESCO_HOST_DEVICE float Reciprocal(float a) {
#if defined(__CUDA_ARCH__)
  return __frcp_rn(a);
#else
  return 1.0f / a;
#endif
}

// a * b + c, rounded once.
FRESCO_HOST_DEVICE float MultiplyAdd(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return fmaf(a, b, c);
#endif
}

FRESCO_HOST_DEVICE float SquareRoot(float value) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(value);
#else
  return sqrtf(value);
#endif
}

// fp32 elements.
struct Float32 {
  using Storage = float;
  FRESCO_HOST_DEVICE static float Load(Storage value) { return value; }
  FRESCO_HOST_DEVICE static Storage Store(float value) { return value; }
};

// bfloat16 elements, as their bits; stores round to nearest even, NaN stays NaN.
struct BFloat16 {
  using Storage = uint16_t;
  FRESCO_HOST_DEVICE static float Load(Storage value) { return FloatOfBits(static_cast<uint32_t>(value) << 16); }
  FRESCO_HOST_DEVICE static Storage Store(float value) {
    const uint32_t bits = FloatBits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return static_cast<Storage>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
};

// fp16 elements, as their bits; stores round to nearest even, to infinity from 65520 on, NaN to 0x7fff as the GPU's
// instruction. What becomes of a loaded NaN's sign and payload is not defined.
struct Float16 {
  using Storage = uint16_t;
  FRESCO_HOST_DEVICE static float Load(Storage value) {
#if defined(__CUDA_ARCH__)
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value));
    return wide;
#else
    const uint32_t sign = (value & 0x8000u) << 16, magnitude = value & 0x7fffu;
    if (magnitude >= 0x7c00) return FloatOfBits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude >= 0x400) return FloatOfBits(sign | ((magnitude << 13) + (112u << 23)));
    return FloatOfBits(sign | FloatBits(static_cast<float>(magnitude) * 0x1p-24f));
#endif
  }
  FRESCO_HOST_DEVICE static Storage Store(float value) {
#if defined(__CUDA_ARCH__)
    Storage narrow;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow) : "f"(value));
    return narrow;
#else
    const uint32_t bits = FloatBits(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x47800000u) return static_cast<Storage>(sign | 0x7c00u);  // 65536
    if (magnitude < 0x38800000u) {  // subnormal, below 2^-14: 0.5 has its last place at 2^-24, where the sum is rounded
      return static_cast<Storage>(sign | (FloatBits(FloatOfBits(magnitude) + 0.5f) - 0x3f000000u));
    }
    const uint32_t rebiased = magnitude - (112u << 23);
    return static_cast<Storage>(sign | (rebiased + 0xfffu + (rebiased >> 13 & 1u)) >> 13);
#endif
  }
};

template <typename Type>
FRESCO_HOST_DEVICE float Rounded(float value) {
  return Type::Load(Type::Store(value));
}

}  // namespace fresco::kernels
