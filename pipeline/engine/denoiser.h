// One denoising step of many images in one forward of the transformer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "pipeline/engine/diffusion_job.h"
#include "pipeline/engine/noise_corrector.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/models/observer.h"

namespace fresco {

// Not thread-safe.
class Denoiser {
 public:
  // `transformer` outlives the denoiser. `corrector`: of the noise that its quantisation makes; may be null.
  // `observer`: of the transformer's stages, Mmdit::Forward's.
  explicit Denoiser(const Mmdit& transformer, std::shared_ptr<const NoiseCorrector> corrector = nullptr,
                    Observer observer = {})
      : transformer_(transformer), corrector_(std::move(corrector)), observer_(std::move(observer)) {}

  // Advances each job. One status per job: DATA_LOSS for one whose latents are no longer finite (it is marked failed).
  // Jobs are distinct, not failed and not done, their texts have equal shapes and their latents equal areas; each job's
  // result is the same whatever the others are. When it throws (libtorch's exceptions), no job has changed.
  std::vector<absl::Status> Step(absl::Span<DiffusionJob* const> jobs);

 private:
  // What the transformer is told about a set of jobs, the same at each of their steps. A job has two rows where it is
  // guided (negative, positive), else one.
  struct Texts {
    std::vector<uint64_t> jobs;
    at::Tensor text;    // [rows, T, J]
    at::Tensor pooled;  // [rows, P]
  };
  const Texts& TextsOf(absl::Span<DiffusionJob* const> jobs);
  // One for each row, [1, C, H, W].
  std::vector<at::Tensor> Velocities(absl::Span<DiffusionJob* const> jobs);
  // The job's own, whose rows are the first of these.
  at::Tensor VelocityOf(const DiffusionJob& job, absl::Span<const at::Tensor> rows) const;

  const Mmdit& transformer_;
  const std::shared_ptr<const NoiseCorrector> corrector_;
  const Observer observer_;
  Texts texts_;  // of the last step's jobs
};

}  // namespace fresco
