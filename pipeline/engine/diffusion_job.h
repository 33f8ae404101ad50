// An image being drawn by a DiffusionEngine.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "pipeline/diffusion/prompt_cache.h"
#include "pipeline/diffusion/schedule.h"
#include "pipeline/engine/byte_allowance.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/memory_reporting.h"
#include "pipeline/engine/step_check.h"
#include "pipeline/models/mmdit.h"

namespace fresco {

// What the transformer is told at a job's steps besides its latents, on the device before the first of them.
struct StepConditions {
  bool alone = false;    // the job's bits must not depend on what others hold of the device: no graphs, nothing ahead
  at::Tensor timesteps;  // [steps] kFloat
  // Of all steps, step by step a row for each of the job's; undefined: computed at each step.
  Mmdit::Modulations modulations;
  std::optional<ByteAllowance::Lease> held;  // for these
};

// Where a step's result is looked at (step_check.h).
struct PendingCheck {
  std::shared_ptr<const StepCheck> check;  // null: it has been
  size_t image = 0;
  int step = 0;  // that it is of
};

// Written by the denoiser, and by the engine that parks or resumes its job.
struct DiffusionState {
  Schedule schedule;
  std::shared_ptr<const PromptEmbedding> positive;
  std::shared_ptr<const PromptEmbedding> negative;  // null without guidance
  // The same in host memory; null until the first snapshot, whose successors share them.
  std::shared_ptr<const PromptEmbedding> host_positive, host_negative;
  at::Tensor latents;   // [1, C, h, w], in the model's type, at noise level schedule.sigmas[step]
  at::Tensor velocity;  // [1, C, h, w], guided, of the last step; undefined before the first
  std::shared_ptr<const StepConditions> conditions;  // of this schedule; null: each step brings its own to the device
  PendingCheck pending;                              // of the last step
  bool correct_noise = false;                        // each velocity is corrected, where the denoiser has a corrector
  bool failed = false;                               // a result was not finite: no further step
};

class DiffusionJob final : public ImageJob {
 public:
  // `id` is unique within its engine.
  DiffusionJob(uint64_t id, ImageSpec spec, DiffusionState state)
      : ImageJob(std::move(spec)), id_(id), state_(std::move(state)) {}
  DiffusionJob(const DiffusionJob&) = default;
  // On whatever thread: what it frees is reported.
  ~DiffusionJob() override {
    if (!state_.latents.defined()) return;
    const MemoryReporting reporting(state_.latents.device());
    state_ = {};
  }

  uint64_t id() const { return id_; }
  const DiffusionState& state() const { return state_; }
  DiffusionState& state() { return state_; }
  bool guided() const { return state_.negative != nullptr; }
  float sigma() const { return state_.schedule.sigmas[static_cast<size_t>(step_)]; }  // noise level of the latents

  // The step that leads to `latents` is done.
  void Advance(at::Tensor latents, at::Tensor velocity) {
    state_.latents = std::move(latents);
    state_.velocity = std::move(velocity);
    ++step_;
  }
  // A job that an engine takes up has a new id there: what is known of the old one may be another engine's.
  void Rename(uint64_t id) { id_ = id; }
  void Warn(Warning warning) { warnings_.push_back(std::move(warning)); }

 private:
  uint64_t id_;
  DiffusionState state_;
};

}  // namespace fresco
