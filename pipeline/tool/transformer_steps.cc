#include "pipeline/tool/transformer_steps.h"

#include <ATen/ops/randn.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/diffusion/sampling.h"
#include "pipeline/diffusion/schedule.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/kernel_choosing.h"
#include "pipeline/engine/model_info.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/tool/presets.h"

namespace fresco {
namespace {

constexpr int kPixelsPerLatent = 8;
constexpr int kPresetSide = 1024;  // pixels: what SD3.5 is made for
constexpr ScheduleConfig kSchedule = {1000, 3.0};

using Steady = std::chrono::steady_clock;

double SecondsSince(Steady::time_point begin) {
  return std::chrono::duration<double>(Steady::now() - begin).count();
}

absl::StatusOr<MmditConfig> ConfigOf(const BenchOptions& options) {
  return PresetConfig(options.preset, options.layers, (std::max(options.width, options.height) + 15) / 16);
}

absl::StatusOr<Mmdit> MakeTransformer(const ModelOptions& model, const BenchOptions& options, const at::Device& device,
                                      const Precision& precision) {
  const Placement placement{device, precision.type, precision.kernels};
  if (!options.preset.empty()) {
    FRESCO_ASSIGN_OR_RETURN(const MmditConfig config, ConfigOf(options));
    return Mmdit::Random(config, placement, precision.transformer);
  }
  FRESCO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(model.model, model.base));
  return LoadTransformer(source, placement, precision.transformer);
}

absl::Status CheckSize(const Mmdit& transformer, const BenchOptions& options) {
  const int64_t multiple = kPixelsPerLatent * transformer.config().patch_size;
  const int64_t largest = multiple * transformer.config().pos_embed_max_size;
  for (const int side : {options.width, options.height}) {
    if (side % multiple != 0 || side > largest)
      return absl::InvalidArgumentError(
          StrCat("--width, --height: ", side, " is not a multiple of ", multiple, " up to ", largest));
  }
  return absl::OkStatus();
}

std::shared_ptr<const PromptEmbedding> RandomText(const Mmdit& transformer, int tokens) {
  const Placement& placement = transformer.placement();
  const auto options = at::TensorOptions(placement.device).dtype(placement.dtype);
  auto text = std::make_shared<PromptEmbedding>();
  text->text = at::randn({1, tokens, transformer.config().joint_attention_dim}, options);
  text->pooled = at::randn({1, transformer.config().pooled_projection_dim}, options);
  return text;
}

std::vector<std::unique_ptr<DiffusionJob>> MakeJobs(const Mmdit& transformer, const BenchOptions& options) {
  const Placement& placement = transformer.placement();
  ImageSpec spec;
  spec.width = options.width;
  spec.height = options.height;
  spec.steps = TransformerSteps::kWarmUpSteps + options.steps + options.recorded;
  spec.guidance_scale = options.guidance;
  std::vector<std::unique_ptr<DiffusionJob>> jobs;
  for (int i = 0; i < options.batch; ++i) {
    DiffusionState state;
    state.schedule = MakeSchedule(kSchedule, spec.steps);
    state.positive = RandomText(transformer, options.text_tokens);
    if (options.guidance > 1) state.negative = RandomText(transformer, options.text_tokens);
    state.latents = DrawNoise(static_cast<uint64_t>(i), transformer.config().in_channels,
                              options.height / kPixelsPerLatent, options.width / kPixelsPerLatent)
                        .to(placement.device, placement.dtype);
    jobs.push_back(std::make_unique<DiffusionJob>(static_cast<uint64_t>(i), spec, std::move(state)));
  }
  return jobs;
}

}  // namespace

absl::Status CheckBenchOptions(const ModelOptions& model, const BenchOptions& options) {
  if (model.model.empty() == options.preset.empty())
    return absl::InvalidArgumentError("either a model or --preset is needed");
  if (options.layers != 0 && options.preset.empty()) return absl::InvalidArgumentError("--layers goes with --preset");
  if (options.recorded < 0 || options.top < 0)
    return absl::InvalidArgumentError("--recorded and --top must not be negative");
  if (options.batch < 1 || options.steps < 1 || options.text_tokens < 1 || options.width < 0 || options.height < 0)
    return absl::InvalidArgumentError("--batch, --steps, --text-tokens, --width and --height must be at least 1");
  if (options.preset.empty()) return absl::OkStatus();
  FRESCO_ASSIGN_OR_RETURN(const BenchOptions sized, WithSides(model, options));
  return ConfigOf(sized).status();
}

absl::StatusOr<BenchOptions> WithSides(const ModelOptions& model, BenchOptions options) {
  int width = kPresetSide, height = kPresetSide;
  if (options.preset.empty() && (options.width == 0 || options.height == 0)) {
    FRESCO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(model.model, model.base));
    FRESCO_ASSIGN_OR_RETURN(const ModelShape shape, ReadModelShape(source));
    FRESCO_ASSIGN_OR_RETURN(const ModelInfo info, DescribeModel(LoadOptions(), source, shape, Precision()));
    width = info.default_width;
    height = info.default_height;
  }
  if (options.width == 0) options.width = width;
  if (options.height == 0) options.height = height;
  return options;
}

absl::StatusOr<std::unique_ptr<TransformerSteps>> TransformerSteps::Load(const ModelOptions& model,
                                                                         const BenchOptions& options,
                                                                         const at::Device& device,
                                                                         Precision precision) {
  const Steady::time_point begin = Steady::now();
  const c10::OptionalDeviceGuard guard(device);
  precision.kernels = MakeDeviceKernels(device);
  FRESCO_ASSIGN_OR_RETURN(Mmdit transformer, MakeTransformer(model, options, device, precision));
  Synchronize(device);
  FRESCO_RETURN_IF_ERROR(CheckSize(transformer, options));
  const double seconds = SecondsSince(begin);
  for (const std::string& note : ChooseKernels(device, model.kernel_choices, precision.kernels))
    std::fprintf(stderr, "%s: %s\n", precision.name.c_str(), note.c_str());
  return std::unique_ptr<TransformerSteps>(new TransformerSteps(std::move(transformer), seconds, options));
}

TransformerSteps::TransformerSteps(Mmdit transformer, double load_seconds, const BenchOptions& options)
    : transformer_(std::move(transformer)),
      load_seconds_(load_seconds),
      owned_(MakeJobs(transformer_, options)),
      denoiser_(transformer_, FastestOptions(transformer_)) {
  for (const auto& job : owned_) {
    denoiser_.Begin(&job->state());
    jobs_.push_back(job.get());
  }
}

absl::StatusOr<double> TransformerSteps::Time() {
  const at::Device device = transformer_.placement().device;
  Synchronize(device);
  const Steady::time_point begin = Steady::now();
  for (const absl::Status& status : denoiser_.Step(jobs_)) FRESCO_RETURN_IF_ERROR(status);
  Synchronize(device);
  return SecondsSince(begin);
}

absl::Status TransformerSteps::WarmUp() {
  for (int step = 0; step < kWarmUpSteps; ++step) FRESCO_RETURN_IF_ERROR(Time().status());
  return absl::OkStatus();
}

}  // namespace fresco
