#include "pipeline/engine/noise_corrector.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include <utility>

namespace fresco {
namespace {

at::Tensor PerChannel(const std::vector<float>& values, const at::Device& device) {
  return at::tensor(values, at::kFloat).view({1, -1, 1, 1}).to(device);
}

}  // namespace

NoiseCorrector::NoiseCorrector(SigmaBuckets buckets, const NoiseCorrection& correction, const at::Device& device)
    : buckets_(std::move(buckets)) {
  for (const AffineCorrection& bucket : correction)
    affine_.push_back({PerChannel(bucket.scale, device), PerChannel(bucket.offset, device)});
}

at::Tensor NoiseCorrector::Correct(const at::Tensor& velocity, float sigma) const {
  const Affine& affine = affine_[buckets_.Of(sigma)];
  return (velocity.to(at::kFloat) * affine.scale).add_(affine.offset).to(velocity.scalar_type());
}

}  // namespace fresco
