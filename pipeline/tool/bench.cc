#include "pipeline/tool/bench.h"

#include <ATen/ops/randn.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "pipeline/base/median.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/diffusion/sampling.h"
#include "pipeline/diffusion/schedule.h"
#include "pipeline/engine/denoiser.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/diffusion_job.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/model_info.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/precision.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/tool/json_print.h"
#include "pipeline/tool/presets.h"
#include "pipeline/tool/progress_line.h"

namespace fresco {
namespace {

constexpr int kPixelsPerLatent = 8;
constexpr int kWarmUpSteps = 2;
constexpr int kPresetSide = 1024;  // pixels: what SD3.5 is made for
constexpr ScheduleConfig kSchedule = {1000, 3.0};

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

struct Measurement {
  double load_seconds = 0;  // or of making random weights
  double step_seconds = 0;  // median
  int64_t weight_bytes = 0;
  int64_t mapped_bytes = 0;  // of these: in the file's mapping, as they are stored
  int64_t peak_memory_bytes = 0;
};

// `options` with its sides set.
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

absl::StatusOr<MmditConfig> ConfigOf(const BenchOptions& options) {
  return PresetConfig(options.preset, options.layers, (std::max(options.width, options.height) + 15) / 16);
}

absl::StatusOr<Mmdit> MakeTransformer(const ModelOptions& model, const BenchOptions& options, const at::Device& device,
                                      const Precision& precision) {
  const Placement placement{device, precision.type};
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
  spec.steps = kWarmUpSteps + options.steps;
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

absl::StatusOr<double> TimeStep(Denoiser& denoiser, absl::Span<DiffusionJob* const> jobs, const at::Device& device) {
  Synchronize(device);
  const Clock::time_point begin = Clock::now();
  for (const absl::Status& status : denoiser.Step(jobs)) FRESCO_RETURN_IF_ERROR(status);
  Synchronize(device);
  return SecondsSince(begin);
}

absl::StatusOr<Measurement> Measure(const ModelOptions& model, const BenchOptions& options, const at::Device& device,
                                    const Precision& precision) {
  const c10::InferenceMode inference;
  const c10::OptionalDeviceGuard guard(device);
  const Clock::time_point begin = Clock::now();
  FRESCO_ASSIGN_OR_RETURN(const Mmdit transformer, MakeTransformer(model, options, device, precision));
  Synchronize(device);
  Measurement measured;
  measured.load_seconds = SecondsSince(begin);
  measured.weight_bytes = transformer.weight_bytes();
  FRESCO_RETURN_IF_ERROR(CheckSize(transformer, options));
  // Weights in their mapped file are in memory too.
  const int64_t counted = MemoryUseOf(device).allocated_bytes;
  measured.mapped_bytes = device.is_cpu() ? std::max<int64_t>(0, measured.weight_bytes - counted) : 0;
  const MappedBytes mapped(measured.mapped_bytes);
  ResetPeakMemory(device);  // what it took to make random weights does not count
  const auto owned = MakeJobs(transformer, options);
  std::vector<DiffusionJob*> jobs;
  for (const auto& job : owned) jobs.push_back(job.get());
  Denoiser denoiser(transformer);
  std::vector<double> seconds;
  ProgressLine progress;
  for (int step = 0; step < kWarmUpSteps + options.steps; ++step) {
    FRESCO_ASSIGN_OR_RETURN(const double taken, TimeStep(denoiser, jobs, device));
    if (step >= kWarmUpSteps) seconds.push_back(taken);
    progress.Show(StrCat("step ", step + 1, "/", kWarmUpSteps + options.steps));
  }
  measured.step_seconds = Median(std::move(seconds));
  measured.peak_memory_bytes = MemoryUseOf(device).peak_bytes;
  return measured;
}

void Print(const ModelOptions& model, const BenchOptions& options, const std::string& precision,
           const Measurement& measured) {
  if (model.json) {
    const nlohmann::ordered_json report = {{"device", model.device},
                                           {"precision", precision},
                                           {"width", options.width},
                                           {"height", options.height},
                                           {"batch", options.batch},
                                           {"guidance", options.guidance},
                                           {"load_seconds", measured.load_seconds},
                                           {"step_seconds", measured.step_seconds},
                                           {"steps_measured", options.steps},
                                           {"weight_bytes", measured.weight_bytes},
                                           {"mapped_bytes", measured.mapped_bytes},
                                           {"peak_memory_bytes", measured.peak_memory_bytes}};
    PrintJson(report);
    return;
  }
  constexpr double kMiB = 1 << 20;
  std::printf("%s, %s, %dx%d, batch %d, guidance %g, %d text tokens\n", model.device.c_str(), precision.c_str(),
              options.width, options.height, options.batch, static_cast<double>(options.guidance), options.text_tokens);
  std::printf("load %.3f s, step %.4f s (median of %d), weights %.1f MiB (%.1f as they lie in their file), ",
              measured.load_seconds, measured.step_seconds, options.steps,
              static_cast<double>(measured.weight_bytes) / kMiB, static_cast<double>(measured.mapped_bytes) / kMiB);
  std::printf("peak memory %.1f MiB\n", static_cast<double>(measured.peak_memory_bytes) / kMiB);
}

absl::Status CheckOptions(const ModelOptions& model, const BenchOptions& options) {
  if (model.model.empty() == options.preset.empty())
    return absl::InvalidArgumentError("either a model or --preset is needed");
  if (options.layers != 0 && options.preset.empty()) return absl::InvalidArgumentError("--layers goes with --preset");
  if (options.batch < 1 || options.steps < 1 || options.text_tokens < 1 || options.width < 0 || options.height < 0)
    return absl::InvalidArgumentError("--batch, --steps, --text-tokens, --width and --height must be at least 1");
  if (options.preset.empty()) return absl::OkStatus();
  FRESCO_ASSIGN_OR_RETURN(const BenchOptions sized, WithSides(model, options));
  return ConfigOf(sized).status();
}

absl::Status Run(const ModelOptions& model, const BenchOptions& asked) {
  FRESCO_ASSIGN_OR_RETURN(const BenchOptions options, WithSides(model, asked));
  FRESCO_ASSIGN_OR_RETURN(const at::Device device, PrepareDevice(model.device, model.threads));
  FRESCO_ASSIGN_OR_RETURN(const Precision precision, ChoosePrecision(model.precision, device));
  FRESCO_ASSIGN_OR_RETURN(const Measurement measured, Measure(model, options, device, precision));
  Print(model, options, precision.name, measured);
  return absl::OkStatus();
}

}  // namespace

int RunBench(const ModelOptions& model, const BenchOptions& options) {
  absl::Status status = CheckOptions(model, options);
  const bool usable = status.ok();
  if (usable) status = CatchTorch("bench", [&] { return Run(model, options); });
  if (status.ok()) return kDone;
  std::fprintf(stderr, "fresco-model: %s\n", std::string(status.message()).c_str());
  return usable ? kFailed : kUsage;
}

}  // namespace fresco
