#include "pipeline/engine/denoiser.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>

#include <utility>

#include "pipeline/base/memory_scope.h"
#include "pipeline/base/strings.h"
#include "pipeline/diffusion/finite.h"
#include "pipeline/diffusion/sampling.h"
#include "pipeline/precision/layer_scope.h"

namespace fresco {
namespace {

int64_t Rows(const DiffusionJob& job) {
  return job.guided() ? 2 : 1;
}

std::vector<uint64_t> Ids(absl::Span<DiffusionJob* const> jobs) {
  std::vector<uint64_t> ids;
  for (const DiffusionJob* job : jobs) ids.push_back(job->id());
  return ids;
}

// One row per sample, in the order of Texts; neighbours of one size in one tensor.
std::vector<at::Tensor> Latents(absl::Span<DiffusionJob* const> jobs) {
  std::vector<at::Tensor> sizes;
  std::vector<at::Tensor> rows;
  for (const DiffusionJob* job : jobs) {
    const at::Tensor& own = job->state().latents;
    if (!rows.empty() && own.sizes() != rows.front().sizes()) sizes.push_back(at::cat(std::exchange(rows, {})));
    rows.insert(rows.end(), static_cast<size_t>(Rows(*job)), own);
  }
  sizes.push_back(at::cat(rows));
  return sizes;
}

at::Tensor Timesteps(absl::Span<DiffusionJob* const> jobs, const at::Device& device) {
  std::vector<float> rows;
  for (const DiffusionJob* job : jobs) {
    const float timestep = job->state().schedule.timesteps[static_cast<size_t>(job->step())];
    rows.insert(rows.end(), static_cast<size_t>(Rows(*job)), timestep);
  }
  return at::tensor(rows, at::kFloat).to(device);
}

at::Tensor GuidedVelocity(const DiffusionJob& job, absl::Span<const at::Tensor> rows) {
  return job.guided() ? Guide(rows[0], rows[1], job.spec().guidance_scale) : rows[0];
}

}  // namespace

const Denoiser::Texts& Denoiser::TextsOf(absl::Span<DiffusionJob* const> jobs) {
  std::vector<uint64_t> ids = Ids(jobs);
  if (ids == texts_.jobs) return texts_;
  std::vector<at::Tensor> text;
  std::vector<at::Tensor> pooled;
  for (const DiffusionJob* job : jobs) {
    for (const auto& side : {job->state().negative, job->state().positive}) {
      if (side == nullptr) continue;
      text.push_back(side->text);
      pooled.push_back(side->pooled);
    }
  }
  const MemoryScope memory("images", MemoryKind::kState);
  texts_ = {};  // before the new ones are made: both together could be too much
  texts_ = {std::move(ids), at::cat(text), at::cat(pooled)};
  return texts_;
}

at::Tensor Denoiser::VelocityOf(const DiffusionJob& job, absl::Span<const at::Tensor> rows) const {
  const at::Tensor guided = GuidedVelocity(job, rows);
  if (corrector_ == nullptr || !job.state().correct_noise) return guided;
  return corrector_->Correct(guided, job.sigma());
}

std::vector<at::Tensor> Denoiser::Velocities(absl::Span<DiffusionJob* const> jobs) {
  const MemoryScope memory("transformer", MemoryKind::kActivations);
  const Texts& texts = TextsOf(jobs);
  const at::Tensor timesteps = Timesteps(jobs, transformer_.placement().device);
  std::vector<at::Tensor> rows;
  for (const at::Tensor& size : transformer_.Forward(Latents(jobs), texts.text, texts.pooled, timesteps, observer_)) {
    for (int64_t row = 0; row < size.size(0); ++row) rows.push_back(size.narrow(0, row, 1));
  }
  return rows;
}

std::vector<absl::Status> Denoiser::Step(absl::Span<DiffusionJob* const> jobs) {
  const StageScope scope("step");
  const std::vector<at::Tensor> velocities = Velocities(jobs);
  std::vector<at::Tensor> velocity;
  std::vector<at::Tensor> latents;
  const MemoryScope memory("images", MemoryKind::kState);
  absl::Span<const at::Tensor> rows = velocities;
  for (const DiffusionJob* job : jobs) {
    velocity.push_back(VelocityOf(*job, rows));
    const float next = job->state().schedule.sigmas[static_cast<size_t>(job->step()) + 1];
    latents.push_back(EulerStep(job->state().latents, velocity.back(), job->sigma(), next));
    rows.remove_prefix(static_cast<size_t>(Rows(*job)));
  }
  const std::vector<bool> finite = FiniteFlags(latents);
  std::vector<absl::Status> statuses(jobs.size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (!finite[i])
      statuses[i] =
          absl::DataLossError(StrCat("step ", jobs[i]->step() + 1, ": the transformer's velocity is NaN or infinite"));
    jobs[i]->state().failed = !finite[i];
    if (finite[i]) jobs[i]->Advance(std::move(latents[i]), std::move(velocity[i]));
  }
  return statuses;
}

}  // namespace fresco
