// The arithmetic between two forwards: noise, guidance, and the Euler step, with the roundings that diffusers makes in
// each type (docs/facts/sd35.md, "Sampling"). Latents and velocities are [B, C, h, w], of one shape and device; a
// sigma is a noise level in 0..1. Throws libtorch's exceptions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace fresco {

// Noise levels before and after a step.
struct SigmaStep {
  float from = 1, to = 0;
};

// Standard normal noise [1, channels, height, width] (latent pixels) in fp32 on the CPU: what torch.randn draws from
// torch.Generator("cpu").manual_seed(seed). The generator takes the seed modulo 2^32.
at::Tensor DrawNoise(uint64_t seed, int64_t channels, int64_t height, int64_t width);

// Classifier-free guidance: negative + scale * (positive - negative), rounded to the tensors' type after each
// operation.
at::Tensor Guide(const at::Tensor& negative, const at::Tensor& positive, float scale);

// One Euler step along `velocity` from noise level `sigma` to `sigma_next`. The difference of the levels and its
// product with the velocity are rounded to the velocity's type, the sum is fp32, the result has the velocity's type.
at::Tensor EulerStep(const at::Tensor& latents, const at::Tensor& velocity, float sigma, float sigma_next);

// What a step makes of one image's velocities.
struct SamplingUpdate {
  at::Tensor latents;   // the next ones, in the velocities' type
  at::Tensor velocity;  // guided
};

// Guide and EulerStep, in one pass over memory where there is a kernel for it (on a GPU), with the same bits. Waits for
// no device. `negative`: undefined without guidance. `nonfinite` [] or [1], kFloat, on their device, at 0: becomes
// another value, or NaN, where the next latents are not finite.
SamplingUpdate GuidedEulerStep(const at::Tensor& latents, const at::Tensor& negative, const at::Tensor& positive,
                               float scale, SigmaStep sigmas, const at::Tensor& nonfinite);

// The noise-free latents that `velocity` points at: latents - sigma * velocity, in fp32.
at::Tensor EstimateDenoised(const at::Tensor& latents, const at::Tensor& velocity, float sigma);

}  // namespace fresco
