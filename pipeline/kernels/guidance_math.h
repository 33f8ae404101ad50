// The arithmetic of one sampling update, element by element: classifier-free guidance, then an Euler step of the flow.
//   v  = u + g * (t - u)            u, t: velocities without and with the prompt; g: guidance scale
//   x' = x + (sigma_next - sigma) * v
// Rounds where diffusers' eager tensors do: every operation on velocities rounds to their type, the last sum is in fp32
// and its result is stored in the latent's type (pipeline_stable_diffusion_3.py;
// scheduling_flow_match_euler_discrete.py, step). Shared by host and device code, so that its tests run without a GPU.
#pragma once

#include "pipeline/kernels/element_types.h"

namespace fresco::kernels {

// One image's update. All arrays hold `elements` values of one type, and none overlaps another.
struct GuidanceEulerJob {
  const void* uncond = nullptr;  // null: no guidance, the velocity is `cond`
  const void* cond = nullptr;
  const void* latent = nullptr;
  void* velocity = nullptr;    // the guided one is stored here; null without guidance, where it is `cond`
  void* next = nullptr;        // the next latent is stored here
  float* nonfinite = nullptr;  // set to 1 where an element of the next latent is NaN or infinite, else left as it is
  int64_t elements = 0;
  float guidance = 1;
  float sigma_delta = 0;  // sigma_next - sigma, negative
};

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

// Element `i` of a job. Elements are independent, so that any thread may take any of them.
template <typename Type>
FRESCO_HOST_DEVICE void UpdateElement(const GuidanceEulerJob& job, int64_t i) {
  using Storage = typename Type::Storage;
  const auto at = [i](const void* elements) { return Type::Load(static_cast<const Storage*>(elements)[i]); };
  float velocity = at(job.cond);
  if (job.uncond != nullptr) {
    velocity = Guided<Type>(at(job.uncond), velocity, job.guidance);
    static_cast<Storage*>(job.velocity)[i] = Type::Store(velocity);
  }
  const float next = EulerStep<Type>(at(job.latent), velocity, job.sigma_delta);
  static_cast<Storage*>(job.next)[i] = Type::Store(next);
  if (!(next - next == 0)) *job.nonfinite = 1;  // whoever writes, writes the same
}

}  // namespace fresco::kernels
