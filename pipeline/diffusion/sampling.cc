#include "pipeline/diffusion/sampling.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/add.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sub.h>

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

at::Tensor EstimateDenoised(const at::Tensor& latents, const at::Tensor& velocity, float sigma) {
  return at::sub(latents.to(at::kFloat), at::mul(velocity.to(at::kFloat), sigma));
}

}  // namespace fresco
