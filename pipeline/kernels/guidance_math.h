// The arithmetic of one sampling update, element by element: classifier-free guidance, then an Euler step of the flow.
//   v  = u + g * (t - u)            u, t: velocities without and with the prompt; g: guidance scale
//   x' = x + (sigma_next - sigma) * v
// Rounds where diffusers' eager tensors do: every operation on velocities rounds to their type, the last sum is in fp32
// and its result is stored in the latent's type (pipeline_stable_diffusion_3.py;
// scheduling_flow_match_euler_discrete.py, step). Shared by host and device code, so that its tests run without a GPU.
#pragma once

#include "pipeline/kernels/element_types.h"

namespace fresco::kernels {

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
