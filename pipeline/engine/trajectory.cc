#include "pipeline/engine/trajectory.h"

#include <cstddef>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/diffusion/sampling.h"
#include "pipeline/engine/prompts.h"

namespace fresco {
namespace {

Schedule StepOf(const Schedule& schedule, int step) {
  const auto i = static_cast<size_t>(step);
  return {{schedule.sigmas[i], schedule.sigmas[i + 1]}, {schedule.timesteps[i]}};
}

absl::StatusOr<std::shared_ptr<const PromptEmbedding>> Encode(const ModelParts& parts, const PromptKey& key) {
  FRESCO_ASSIGN_OR_RETURN(PromptEmbedding embedding, parts.text.Encode(key));
  return std::make_shared<const PromptEmbedding>(std::move(embedding));
}

}  // namespace

absl::StatusOr<at::Tensor> VelocityOf(Denoiser& denoiser, const ImageSpec& spec, uint64_t id,
                                      const DiffusionState& state) {
  DiffusionJob job(id, spec, state);
  FRESCO_RETURN_IF_ERROR(denoiser.Step({&job}).front());
  return job.state().velocity;
}

absl::StatusOr<Trajectory> Trajectory::Start(const ModelParts& parts, const ImageSpec& spec, uint64_t id) {
  DiffusionState state;
  state.schedule = MakeSchedule(parts.schedule, spec.steps);
  FRESCO_ASSIGN_OR_RETURN(state.positive, Encode(parts, PositiveKey(spec)));
  if (spec.guidance_scale > 1) {
    FRESCO_ASSIGN_OR_RETURN(state.negative, Encode(parts, NegativeKey(spec)));
  }
  const int64_t pixels = parts.vae.config().downscale();
  const Placement& placement = parts.transformer.placement();
  state.latents =
      DrawNoise(spec.seed, parts.transformer.config().in_channels, spec.height / pixels, spec.width / pixels)
          .to(placement.device, placement.dtype);
  return Trajectory(std::make_unique<DiffusionJob>(id, spec, std::move(state)));
}

DiffusionState Trajectory::NextStep(const at::Tensor& latents) const {
  DiffusionState state = job_->state();
  state.schedule = StepOf(state.schedule, step());
  state.latents = latents.to(state.latents.options());
  return state;
}

absl::StatusOr<TrajectoryStep> Trajectory::Advance(Denoiser& denoiser) {
  TrajectoryStep taken{NextStep(latents()), {}};
  const absl::Status status = denoiser.Step({job_.get()}).front();
  if (!status.ok()) return Annotate(status, StrCat("'", PrintableName(spec().prompt), "'"));
  taken.velocity = job_->state().velocity;
  return taken;
}

}  // namespace fresco
