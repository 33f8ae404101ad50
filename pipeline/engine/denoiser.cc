#include "pipeline/engine/denoiser.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "pipeline/base/memory_scope.h"
#include "pipeline/base/strings.h"
#include "pipeline/diffusion/sampling.h"
#include "pipeline/engine/memory.h"
#include "pipeline/models/transfer.h"
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

// [rows] kFloat, one for each row of Texts.
at::Tensor Timesteps(absl::Span<DiffusionJob* const> jobs, const at::Device& device) {
  std::vector<at::Tensor> rows;
  for (const DiffusionJob* job : jobs) {
    const auto step = static_cast<size_t>(job->step());
    const StepConditions* const ahead = job->state().conditions.get();
    const at::Tensor own = ahead != nullptr ? ahead->timesteps.narrow(0, job->step(), 1)
                                            : Upload({job->state().schedule.timesteps[step]}, device);
    rows.insert(rows.end(), static_cast<size_t>(Rows(*job)), own);
  }
  return at::cat(rows);
}

bool IsAhead(const DiffusionJob* job) {
  const StepConditions* const ahead = job->state().conditions.get();
  return ahead != nullptr && ahead->modulations.blocks.defined();
}

// Of the step that comes next, a row for each of the job's.
Mmdit::Modulations ModulationsOfStep(const DiffusionJob& job) {
  const Mmdit::Modulations& all = job.state().conditions->modulations;
  const int64_t rows = Rows(job), first = job.step() * rows;
  return {all.blocks.narrow(0, first, rows), all.norm_out.narrow(0, first, rows)};
}

at::Tensor Joined(const std::vector<at::Tensor>& rows) {
  return rows.size() == 1 ? rows.front() : at::cat(rows);
}

bool MustBeAlone(const DiffusionJob& job) {
  return job.state().conditions != nullptr && job.state().conditions->alone;
}

// Of all steps of a job, in the order of StepConditions.
Mmdit::Modulations ModulateAll(const Mmdit& transformer, const DiffusionState& state, const at::Tensor& timesteps) {
  std::vector<at::Tensor> pooled;
  if (state.negative != nullptr) pooled.push_back(state.negative->pooled);
  pooled.push_back(state.positive->pooled);
  const int64_t steps = timesteps.size(0), rows = static_cast<int64_t>(pooled.size());
  const ModuleScope scope("transformer");
  return transformer.Modulate(at::cat(pooled).repeat({steps, 1}),
                              timesteps.unsqueeze(1).expand({steps, rows}).reshape({-1}));
}

// The jobs' places, in an order in which those of one size are neighbours, and so share what the transformer does by
// size; of one size as they are.
std::vector<size_t> BySize(absl::Span<DiffusionJob* const> jobs) {
  std::vector<size_t> order(jobs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto size = [&](size_t i) {
    const at::Tensor& latents = jobs[i]->state().latents;
    return std::pair(latents.size(2) * latents.size(3), latents.size(2));
  };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return size(a) < size(b); });
  return order;
}

absl::Status NotFinite(int step) {
  return absl::DataLossError(StrCat("step ", step, ": the transformer's velocity is NaN or infinite"));
}

}  // namespace

DenoiserOptions FastestOptions(const Mmdit& transformer) {
  const at::Device& device = transformer.placement().device;
  DenoiserOptions options;
  if (!device.is_cuda()) return options;
  const int64_t memory = MemoryOf(device).total_bytes;
  options.modulations_ahead = ByteAllowance::Of(ModulationAllowance(memory));
  options.graphs = ForwardGraphs::OnGpu(transformer, GraphAllowance(memory, transformer.weight_bytes()), nullptr);
  return options;
}

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

SamplingUpdate Denoiser::UpdateOf(const DiffusionJob& job, absl::Span<const at::Tensor> rows,
                                  const at::Tensor& nonfinite) const {
  const SigmaStep sigmas{job.sigma(), job.state().schedule.sigmas[static_cast<size_t>(job.step()) + 1]};
  const at::Tensor negative = job.guided() ? rows[0] : at::Tensor(), &positive = rows[job.guided() ? 1 : 0];
  const float scale = job.spec().guidance_scale;
  const at::Tensor& latents = job.state().latents;
  if (options_.corrector == nullptr || !job.state().correct_noise)
    return GuidedEulerStep(latents, negative, positive, scale, sigmas, nonfinite);
  const at::Tensor guided = negative.defined() ? Guide(negative, positive, scale) : positive;
  return GuidedEulerStep(latents, {}, options_.corrector->Correct(guided, sigmas.from), scale, sigmas, nonfinite);
}

Mmdit::Modulations Denoiser::ModulationsOf(absl::Span<DiffusionJob* const> jobs, const at::Tensor& pooled) const {
  const ModuleScope scope("transformer");
  if (std::none_of(jobs.begin(), jobs.end(), &IsAhead))
    return transformer_.Modulate(pooled, Timesteps(jobs, pooled.device()));
  std::vector<at::Tensor> blocks, norm_out;
  int64_t row = 0;
  for (DiffusionJob* const job : jobs) {
    const at::Tensor own_pooled = pooled.narrow(0, row, Rows(*job));
    row += Rows(*job);
    const Mmdit::Modulations own =
        IsAhead(job) ? ModulationsOfStep(*job) : transformer_.Modulate(own_pooled, Timesteps({job}, pooled.device()));
    blocks.push_back(own.blocks);
    norm_out.push_back(own.norm_out);
  }
  return {Joined(blocks), Joined(norm_out)};
}

std::vector<at::Tensor> Denoiser::Forward(absl::Span<DiffusionJob* const> jobs) {
  const Texts& texts = TextsOf(jobs);
  if (options_.graphs != nullptr && !MustBeAlone(*jobs.front()))
    return options_.graphs->Forward(Latents(jobs), texts.text, ModulationsOf(jobs, texts.pooled));
  if (std::any_of(jobs.begin(), jobs.end(), &IsAhead))
    return transformer_.Forward(Latents(jobs), texts.text, ModulationsOf(jobs, texts.pooled), options_.observer);
  const at::Tensor timesteps = Timesteps(jobs, transformer_.placement().device);
  return transformer_.Forward(Latents(jobs), texts.text, texts.pooled, timesteps, options_.observer);
}

std::vector<at::Tensor> Denoiser::Velocities(absl::Span<DiffusionJob* const> jobs) {
  const MemoryScope memory("transformer", MemoryKind::kActivations);
  std::vector<at::Tensor> rows;
  for (const at::Tensor& size : Forward(jobs)) {
    for (int64_t row = 0; row < size.size(0); ++row) rows.push_back(size.narrow(0, row, 1));
  }
  return rows;
}

void Denoiser::Begin(DiffusionState* state, bool alone) const {
  const MemoryScope memory("images", MemoryKind::kState);
  StepConditions conditions;
  conditions.alone = alone;
  conditions.timesteps = Upload(state->schedule.timesteps, transformer_.placement().device);
  if (options_.modulations_ahead != nullptr && !alone) {
    const int64_t rows = conditions.timesteps.size(0) * (state->negative != nullptr ? 2 : 1);
    if (auto lease = options_.modulations_ahead->Take(rows * transformer_.modulation_bytes())) {
      conditions.held.emplace(std::move(*lease));
      conditions.modulations = ModulateAll(transformer_, *state, conditions.timesteps);
    }
  }
  state->conditions = std::make_shared<const StepConditions>(std::move(conditions));
}

absl::Status Denoiser::Settle(const DiffusionJob& job) {
  const PendingCheck& pending = job.state().pending;
  if (pending.check == nullptr || pending.check->Finite(pending.image)) return absl::OkStatus();
  return NotFinite(pending.step);
}

std::vector<absl::Status> Denoiser::Step(absl::Span<DiffusionJob* const> jobs) {
  const std::vector<size_t> order = BySize(jobs);
  std::vector<DiffusionJob*> ordered;
  for (const size_t place : order) ordered.push_back(jobs[place]);
  std::vector<absl::Status> ordered_statuses = StepInOrder(ordered), statuses(jobs.size());
  for (size_t i = 0; i < order.size(); ++i) statuses[order[i]] = std::move(ordered_statuses[i]);
  return statuses;
}

std::vector<absl::Status> Denoiser::StepInOrder(absl::Span<DiffusionJob* const> jobs) {
  const StageScope scope("step");
  std::optional<c10::Event> begun;
  if (options_.look_later) begun = StepCheck::Begin(transformer_.placement().device);
  const std::vector<at::Tensor> velocities = Velocities(jobs);
  const MemoryScope memory("images", MemoryKind::kState);
  absl::Span<const at::Tensor> rows = velocities;
  const at::Tensor nonfinite =
      at::zeros({static_cast<int64_t>(jobs.size())}, velocities.front().options().dtype(at::kFloat));
  std::vector<SamplingUpdate> updates;
  for (const DiffusionJob* job : jobs) {
    updates.push_back(UpdateOf(*job, rows, nonfinite.select(0, static_cast<int64_t>(updates.size()))));
    rows.remove_prefix(static_cast<size_t>(Rows(*job)));
  }
  const auto check = std::make_shared<const StepCheck>(nonfinite, options_.saturation, std::move(begun));
  AwaitLast();
  std::vector<absl::Status> statuses;
  for (size_t i = 0; i < jobs.size(); ++i) statuses.push_back(Look(*jobs[i], *check, i));
  for (size_t i = 0; i < jobs.size(); ++i) {
    DiffusionState& state = jobs[i]->state();
    state.failed = !statuses[i].ok();
    state.pending = {};
    if (state.failed) continue;
    if (options_.look_later) state.pending = {check, i, jobs[i]->step() + 1};
    jobs[i]->Advance(std::move(updates[i].latents), std::move(updates[i].velocity));
  }
  ++steps_;
  if (options_.look_later) last_ = check;
  return statuses;
}

void Denoiser::AwaitLast() {
  constexpr size_t kRemembered = 64;
  const std::shared_ptr<const StepCheck> last = std::exchange(last_, nullptr);
  if (last == nullptr) return;
  if (const std::optional<double> seconds = last->Seconds()) times_.push_back({steps_, *seconds});
  if (times_.size() > kRemembered) times_.erase(times_.begin());
}

std::vector<StepTime> Denoiser::TakeStepTimes(bool wait) {
  if (wait) AwaitLast();
  return std::exchange(times_, {});
}

absl::Status Denoiser::Look(const DiffusionJob& job, const StepCheck& own, size_t image) const {
  const absl::Status before = Settle(job);  // which leaves the device busy with this step
  if (!before.ok() || options_.look_later || own.Finite(image)) return before;
  return NotFinite(job.step() + 1);
}

}  // namespace fresco
