#include "pipeline/tool/bench.h"

#include <ATen/ops/randn.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
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
  double beside_step_seconds = 0;  // with --beside: the other precision's median
  double speed = 0;                // and the median of its step's time by this one's, pair by pair
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

// A transformer in one precision and the images that it advances.
class Steps {
 public:
  static absl::StatusOr<std::unique_ptr<Steps>> Load(const ModelOptions& model, const BenchOptions& options,
                                                     const at::Device& device, const Precision& precision) {
    const Clock::time_point begin = Clock::now();
    FRESCO_ASSIGN_OR_RETURN(Mmdit transformer, MakeTransformer(model, options, device, precision));
    Synchronize(device);
    FRESCO_RETURN_IF_ERROR(CheckSize(transformer, options));
    return std::unique_ptr<Steps>(new Steps(std::move(transformer), SecondsSince(begin), options));
  }

  // Of one step of all images, in seconds.
  absl::StatusOr<double> Time() {
    const at::Device device = transformer_.placement().device;
    Synchronize(device);
    const Clock::time_point begin = Clock::now();
    for (const absl::Status& status : denoiser_.Step(jobs_)) FRESCO_RETURN_IF_ERROR(status);
    Synchronize(device);
    return SecondsSince(begin);
  }

  absl::Status WarmUp() {
    for (int step = 0; step < kWarmUpSteps; ++step) FRESCO_RETURN_IF_ERROR(Time().status());
    return absl::OkStatus();
  }

  double load_seconds() const { return load_seconds_; }
  int64_t weight_bytes() const { return transformer_.weight_bytes(); }

 private:
  Steps(Mmdit transformer, double load_seconds, const BenchOptions& options)
      : transformer_(std::move(transformer)),
        load_seconds_(load_seconds),
        owned_(MakeJobs(transformer_, options)),
        denoiser_(transformer_) {
    for (const auto& job : owned_) jobs_.push_back(job.get());
  }

  const Mmdit transformer_;
  const double load_seconds_;
  const std::vector<std::unique_ptr<DiffusionJob>> owned_;
  std::vector<DiffusionJob*> jobs_;
  Denoiser denoiser_;
};

// The memory that the first precision takes, with no other beside it.
absl::Status MeasureMemory(Steps& steps, const at::Device& device, int64_t before, Measurement* measured) {
  measured->weight_bytes = steps.weight_bytes();
  // Weights in their mapped file are in memory too.
  const int64_t counted = MemoryUseOf(device).allocated_bytes - before;
  measured->mapped_bytes = device.is_cpu() ? std::max<int64_t>(0, measured->weight_bytes - counted) : 0;
  const MappedBytes mapped(measured->mapped_bytes);
  ResetPeakMemory(device);  // what it took to make random weights does not count
  FRESCO_RETURN_IF_ERROR(steps.WarmUp());
  measured->peak_memory_bytes = MemoryUseOf(device).peak_bytes;
  return absl::OkStatus();
}

absl::Status TakeTurns(Steps& steps, Steps* beside, int count, Measurement* measured) {
  std::vector<double> seconds, beside_seconds, speeds;
  ProgressLine progress;
  for (int step = 0; step < count; ++step) {
    progress.Show(StrCat("step ", step + 1, "/", count));
    FRESCO_ASSIGN_OR_RETURN(const double taken, steps.Time());
    seconds.push_back(taken);
    if (beside == nullptr) continue;
    FRESCO_ASSIGN_OR_RETURN(const double others, beside->Time());
    beside_seconds.push_back(others);
    speeds.push_back(others / taken);
  }
  measured->step_seconds = Median(std::move(seconds));
  if (beside == nullptr) return absl::OkStatus();
  measured->beside_step_seconds = Median(std::move(beside_seconds));
  measured->speed = Median(std::move(speeds));
  return absl::OkStatus();
}

absl::StatusOr<Measurement> Measure(const ModelOptions& model, const BenchOptions& options, const at::Device& device,
                                    const Precision& precision, const std::optional<Precision>& other) {
  const c10::InferenceMode inference;
  const c10::OptionalDeviceGuard guard(device);
  const int64_t before = MemoryUseOf(device).allocated_bytes;
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<Steps> steps, Steps::Load(model, options, device, precision));
  Measurement measured;
  measured.load_seconds = steps->load_seconds();
  FRESCO_RETURN_IF_ERROR(MeasureMemory(*steps, device, before, &measured));
  std::unique_ptr<Steps> beside;
  if (other.has_value()) {
    FRESCO_ASSIGN_OR_RETURN(beside, Steps::Load(model, options, device, *other));
    FRESCO_RETURN_IF_ERROR(beside->WarmUp());
  }
  FRESCO_RETURN_IF_ERROR(TakeTurns(*steps, beside.get(), options.steps, &measured));
  return measured;
}

void Print(const ModelOptions& model, const BenchOptions& options, const std::string& precision,
           const std::optional<Precision>& other, const Measurement& measured) {
  if (model.json) {
    nlohmann::ordered_json report = {{"device", model.device},
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
    if (other.has_value())
      report["beside"] = {
          {"precision", other->name}, {"step_seconds", measured.beside_step_seconds}, {"speed", measured.speed}};
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
  if (other.has_value())
    std::printf("in turns with %s: its step %.4f s, %.3f times as fast\n", other->name.c_str(),
                measured.beside_step_seconds, measured.speed);
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
  std::optional<Precision> other;
  if (!options.beside.empty()) {
    FRESCO_ASSIGN_OR_RETURN(other, ChoosePrecision(options.beside, device));
  }
  FRESCO_ASSIGN_OR_RETURN(const Measurement measured, Measure(model, options, device, precision, other));
  Print(model, options, precision.name, other, measured);
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
