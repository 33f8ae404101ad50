// Takes back what quantisation does to a velocity on average (docs/CALIBRATION.md, "Noise correction").
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <vector>

#include "pipeline/precision/calibration.h"

namespace fresco {

// Immutable, thread-safe.
class NoiseCorrector {
 public:
  // `correction`: one for each bucket, each of as many channels as the velocities have.
  NoiseCorrector(SigmaBuckets buckets, const NoiseCorrection& correction, const at::Device& device);

  // velocity [1, C, h, w], guided, at noise level `sigma` → the same shape and type; computed in fp32, rounded once.
  at::Tensor Correct(const at::Tensor& velocity, float sigma) const;

 private:
  struct Affine {
    at::Tensor scale, offset;  // [1, C, 1, 1], kFloat
  };
  const SigmaBuckets buckets_;
  std::vector<Affine> affine_;  // one per bucket
};

}  // namespace fresco
