// The arithmetic of one sampling update, element by element: classifier-free guidance, then an Euler step of the flow.
//   v  = u + g * (t - u)            u, t: velocities without and with the prompt; g: guidance scale
//   x' = x + (sigma_next - sigma) * v
// Rounds where diffusers' eager tensors do: every operation on velocities rounds to their type, the last sum is in fp32
// and its result is stored in the latent's type (pipeline_stable_diffusion_3.py;
// scheduling_flow_match_euler_discrete.py, step). Shared by host and device code, so that its tests run without a GPU.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FRESCO_HOST_DEVICE __host__ __device__ inline
#else
#define FRESCO_HOST_DEVICE inline
#endif

namespace fresco::kernels {

// What a compiler must not contract into a fused multiply-add: eager tensors round the product first.
FRESCO_HOST_DEVICE float Multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  volatile float product = a * b;
  return product;
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
  FRESCO_HOST_DEVICE static float Load(Storage value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    memcpy(&result, &bits, sizeof(result));
    return result;
  }
  FRESCO_HOST_DEVICE static Storage Store(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return static_cast<Storage>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
};

template <typename Type>
FRESCO_HOST_DEVICE float Rounded(float value) {
  return Type::Load(Type::Store(value));
}

// The guided velocity.
template <typename Type>
FRESCO_HOST_DEVICE float Guided(float uncond, float cond, float guidance) {
  const float difference = Rounded<Type>(cond - uncond);
  return Rounded<Type>(uncond + Rounded<Type>(Multiply(guidance, difference)));
}

// The next latent from the guided velocity. diffusers' difference of sigmas is a tensor without dimensions, which takes
// the velocity's type before it is multiplied.
template <typename Type>
FRESCO_HOST_DEVICE float EulerStep(float latent, float velocity, float sigma_delta) {
  return Rounded<Type>(latent + Rounded<Type>(Multiply(Rounded<Type>(sigma_delta), velocity)));
}

}  // namespace fresco::kernels
