#include "pipeline/diffusion/sampling.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sub.h>

#include "pipeline/diffusion/finite.h"
#include "pipeline/kernels/cuda_library.h"
#include "pipeline/kernels/guidance_math.h"
#include "pipeline/precision/cuda_kernels.h"

namespace fresco {

at::Tensor DrawNoise(uint64_t seed, int64_t channels, int64_t height, int64_t width) {
  const at::Generator generator = at::detail::createCPUGenerator(seed & 0xffffffffu);
  return at::randn({1, channels, height, width}, generator, at::TensorOptions().dtype(at::kFloat).device(at::kCPU));
}

at::Tensor Guide(const at::Tensor& negative, const at::Tensor& positive, float scale) {
  return at::add(negative, at::mul(at::sub(positive, negative), scale));
}

at::Tensor EulerStep(const at::Tensor& latents, const at::Tensor& velocity, float sigma, float sigma_next) {
  // diffusers' difference of sigmas is a tensor without dimensions: it takes the velocity's type before it is
  // multiplied.
  const at::Tensor difference =
      at::scalar_tensor(sigma_next - sigma, at::TensorOptions().dtype(velocity.scalar_type()));
  const at::Tensor change = at::mul(velocity, difference);
  return at::add(latents.to(at::kFloat), change).to(velocity.scalar_type());
}

namespace {

SamplingUpdate UpdateByKernel(const at::Tensor& latents, const at::Tensor& negative, const at::Tensor& positive,
                              float scale, SigmaStep sigmas, const at::Tensor& nonfinite) {
  const at::Tensor from = latents.contiguous(), cond = positive.contiguous();
  const at::Tensor uncond = negative.defined() ? negative.contiguous() : at::Tensor();
  SamplingUpdate update{at::empty_like(cond), negative.defined() ? at::empty_like(cond) : cond};
  kernels::GuidanceEulerJob job;
  if (uncond.defined()) {
    job.uncond = uncond.const_data_ptr();
    job.velocity = update.velocity.data_ptr();
  }
  job.cond = cond.const_data_ptr();
  job.latent = from.const_data_ptr();
  job.next = update.latents.data_ptr();
  job.nonfinite = nonfinite.mutable_data_ptr<float>();
  job.elements = cond.numel();
  job.guidance = scale;
  job.sigma_delta = sigmas.to - sigmas.from;
  LaunchBeside(cond, "fresco::guidance_euler", [&](const CudaLibrary& library, void* stream) {
    return library.GuidanceEuler(ElementOf(cond.scalar_type()), job, stream);
  });
  return update;
}

}  // namespace

SamplingUpdate GuidedEulerStep(const at::Tensor& latents, const at::Tensor& negative, const at::Tensor& positive,
                               float scale, SigmaStep sigmas, const at::Tensor& nonfinite) {
  const bool same_type = latents.scalar_type() == positive.scalar_type();
  if (positive.is_cuda() && same_type && CudaKernelsStatus().ok())
    return UpdateByKernel(latents, negative, positive, scale, sigmas, nonfinite);
  const at::Tensor velocity = negative.defined() ? Guide(negative, positive, scale) : positive;
  SamplingUpdate update{EulerStep(latents, velocity, sigmas.from, sigmas.to), velocity};
  MarkNonfinite(update.latents, nonfinite);
  return update;
}

at::Tensor EstimateDenoised(const at::Tensor& latents, const at::Tensor& velocity, float sigma) {
  return at::sub(latents.to(at::kFloat), at::mul(velocity.to(at::kFloat), sigma));
}

}  // namespace fresco
