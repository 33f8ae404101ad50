// A picture's way from noise to image, step by step, through denoisers that may differ: what calibration looks at.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "pipeline/engine/denoiser.h"
#include "pipeline/engine/diffusion_job.h"
#include "pipeline/engine/image_spec.h"
#include "pipeline/engine/model_parts.h"

namespace fresco {

// One step of an image, for any denoiser.
struct TrajectoryStep {
  DiffusionState state;  // its schedule is of this step alone
  at::Tensor velocity;   // [1, C, h, w], guided: of the denoiser that took it
};

// What a denoiser makes of one step, which no other step is taken with. `id`: as DiffusionJob's. DATA_LOSS where it is
// not finite.
absl::StatusOr<at::Tensor> VelocityOf(Denoiser& denoiser, const ImageSpec& spec, uint64_t id,
                                      const DiffusionState& state);

// Not thread-safe.
class Trajectory {
 public:
  // From the texts' embeddings and the seed's noise. `id`: as DiffusionJob's. Errors: as TextConditioner::Encode.
  static absl::StatusOr<Trajectory> Start(const ModelParts& parts, const ImageSpec& spec, uint64_t id);

  bool done() const { return job_->done(); }
  int step() const { return job_->step(); }
  float sigma() const { return job_->sigma(); }  // noise level of the latents
  const ImageSpec& spec() const { return job_->spec(); }
  uint64_t id() const { return job_->id(); }
  const at::Tensor& latents() const { return job_->state().latents; }

  // The step that comes next, alone, from `latents` of any type; without its velocity.
  DiffusionState NextStep(const at::Tensor& latents) const;
  // Goes on by one step, and returns what it was. Errors name the prompt.
  absl::StatusOr<TrajectoryStep> Advance(Denoiser& denoiser);
  // Skips a step of which only the place in the schedule matters.
  void Skip() { job_->Advance(latents(), {}); }

 private:
  explicit Trajectory(std::unique_ptr<DiffusionJob> job) : job_(std::move(job)) {}

  std::unique_ptr<DiffusionJob> job_;
};

}  // namespace fresco
