// One denoising step of many images in one forward of the transformer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "pipeline/diffusion/sampling.h"
#include "pipeline/engine/byte_allowance.h"
#include "pipeline/engine/diffusion_job.h"
#include "pipeline/engine/forward_graphs.h"
#include "pipeline/engine/noise_corrector.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/models/observer.h"
#include "pipeline/precision/saturation.h"

namespace fresco {

struct DenoiserOptions {
  std::shared_ptr<const NoiseCorrector> corrector;  // of the noise that quantisation makes; may be null
  Observer observer;                                // of the transformer's stages, Mmdit::Forward's
  // A step looks at what the one before it has made of a job, so that the host does not wait for the device: it is one
  // step ahead, and the last step's result is looked at by Settle. Otherwise each looks at its own.
  bool look_later = false;
  // What the modulations of all steps of jobs that have begun may take, in bytes: computed when they begin, in one
  // product, as long as there are some left. Null: each step computes its own.
  std::shared_ptr<ByteAllowance> modulations_ahead;
  // By which forwards are enqueued, of this transformer; null: launch by launch. Not beside an observer.
  std::shared_ptr<ForwardGraphs> graphs;
  // Whose counters on the device come to the host with each step's result; null: nobody's.
  std::shared_ptr<SaturationCount> saturation;
};

// What a transformer that has its device for itself is advanced by: on a GPU graphs, and modulations ahead. It outlives
// them.
DenoiserOptions FastestOptions(const Mmdit& transformer);

// Not thread-safe, but for Settle.
class Denoiser {
 public:
  // `transformer` outlives the denoiser.
  explicit Denoiser(const Mmdit& transformer, DenoiserOptions options = {})
      : transformer_(transformer), options_(std::move(options)) {}

  // Brings to the device what all steps of a job need, so that none has to (DiffusionState::conditions). Of a job that
  // begins, or comes from another device; throws libtorch's exceptions. `alone`: StepConditions'.
  void Begin(DiffusionState* state, bool alone = false) const;

  // Advances each job. One status per job: DATA_LOSS for one whose latents are no longer finite (it is marked failed);
  // with `look_later`, for one whose latents were not when it began. Jobs are distinct, not failed and not done, and
  // their texts have equal shapes; each job's result is the same whatever the others are. When
  // it throws (libtorch's exceptions), no job has changed. With `look_later` nothing here waits for what is computed in
  // this step, but for the step before, whosever it was: callers are one step ahead of the device and no more.
  std::vector<absl::Status> Step(absl::Span<DiffusionJob* const> jobs);

  // Engine's, with `look_later`; else nothing.
  std::optional<uint64_t> last_step() const { return options_.look_later ? std::optional(steps_) : std::nullopt; }
  std::vector<StepTime> TakeStepTimes(bool wait);

  // Looks at the last step's result, which may still be on its way: waits for it. DATA_LOSS where it is not finite. OK
  // where it has been looked at. May throw libtorch's exceptions. On any thread that has the job.
  static absl::Status Settle(const DiffusionJob& job);

 private:
  // The same, jobs of one size being neighbours.
  std::vector<absl::Status> StepInOrder(absl::Span<DiffusionJob* const> jobs);
  // What the transformer is told about a set of jobs, the same at each of their steps. A job has two rows where it is
  // guided (negative, positive), else one.
  struct Texts {
    std::vector<uint64_t> jobs;
    at::Tensor text;    // [rows, T, J]
    at::Tensor pooled;  // [rows, P]
  };
  const Texts& TextsOf(absl::Span<DiffusionJob* const> jobs);
  // Of this step, a row for each of Texts, whose pooled ones are given.
  Mmdit::Modulations ModulationsOf(absl::Span<DiffusionJob* const> jobs, const at::Tensor& pooled) const;
  // Of latents by size.
  std::vector<at::Tensor> Forward(absl::Span<DiffusionJob* const> jobs);
  // One for each row, [1, C, H, W].
  std::vector<at::Tensor> Velocities(absl::Span<DiffusionJob* const> jobs);
  // The job's next latents, of the velocities of its rows. `nonfinite`: GuidedEulerStep's.
  SamplingUpdate UpdateOf(const DiffusionJob& job, absl::Span<const at::Tensor> rows,
                          const at::Tensor& nonfinite) const;
  // Of the steps before the one that has been enqueued, or of that: `own`, of its `image`.
  absl::Status Look(const DiffusionJob& job, const StepCheck& own, size_t image) const;
  // Until the last step that has been made is done.
  void AwaitLast();

  const Mmdit& transformer_;
  const DenoiserOptions options_;
  Texts texts_;  // of the last step's jobs

  uint64_t steps_ = 0;                     // made
  std::shared_ptr<const StepCheck> last_;  // the last one's, as long as its time is not known
  std::vector<StepTime> times_;            // that nobody has taken yet
};

}  // namespace fresco
