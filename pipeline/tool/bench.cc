#include "pipeline/tool/bench.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/median.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/layer_times.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/precision.h"
#include "pipeline/engine/profiler.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/tool/json_print.h"
#include "pipeline/tool/layer_report.h"
#include "pipeline/tool/progress_line.h"
#include "pipeline/tool/transformer_steps.h"

namespace fresco {
namespace {

struct Measurement {
  double load_seconds = 0;  // or of making random weights
  double step_seconds = 0;  // median
  int64_t weight_bytes = 0;
  int64_t mapped_bytes = 0;  // of these: in the file's mapping, as they are stored
  int64_t peak_memory_bytes = 0;
  double beside_step_seconds = 0;    // with --beside: the other precision's median
  double speed = 0;                  // and the median of its step's time by this one's, pair by pair
  std::optional<StageTimes> layers;  // of the recorded steps
  MeasuredLimits limits;

  // Of a step that was not recorded, the time in which a GPU had nothing to do.
  double idle_share() const {
    return std::max(0.0, 1 - (layers->layer_seconds() + layers->outside_seconds) / step_seconds);
  }
};

// The memory that the first precision takes, with no other beside it.
absl::Status MeasureMemory(TransformerSteps& steps, const at::Device& device, int64_t before, Measurement* measured) {
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

absl::Status TakeTurns(TransformerSteps& steps, TransformerSteps* beside, int count, Measurement* measured) {
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

absl::Status RecordLayers(TransformerSteps& steps, const std::string& device, int count, Measurement* measured) {
  const SystemClock clock;
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<Recorder> recorder,
                          MakeRecorder(device, RecordedDetail::kLayers, &clock));
  std::vector<Recording> recordings;
  for (int step = 0; step < count; ++step) {
    FRESCO_RETURN_IF_ERROR(recorder->Begin());
    const absl::Status made = steps.Time().status();
    absl::StatusOr<Recording> recording = recorder->End();  // whatever has become of the step
    FRESCO_RETURN_IF_ERROR(made);
    FRESCO_RETURN_IF_ERROR(recording.status());
    recordings.push_back(*std::move(recording));
  }
  const std::vector<StageTimes> stages = AddUpLayers(recordings);
  if (stages.size() != 1 || stages.front().seconds <= 0)
    return absl::InternalError(StrCat(device, ": the profiler has seen nothing of a step (--recorded 0 does without)"));
  measured->layers = stages.front();
  FRESCO_ASSIGN_OR_RETURN(measured->limits, MeasureLimits(device, stages));
  return absl::OkStatus();
}

absl::StatusOr<Measurement> Measure(const ModelOptions& model, const BenchOptions& options, const at::Device& device,
                                    const Precision& precision, const std::optional<Precision>& other) {
  const c10::InferenceMode inference;
  const c10::OptionalDeviceGuard guard(device);
  const int64_t before = MemoryUseOf(device).allocated_bytes;
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<TransformerSteps> steps,
                          TransformerSteps::Load(model, options, device, precision));
  Measurement measured;
  measured.load_seconds = steps->load_seconds();
  FRESCO_RETURN_IF_ERROR(MeasureMemory(*steps, device, before, &measured));
  std::unique_ptr<TransformerSteps> beside;
  if (other.has_value()) {
    FRESCO_ASSIGN_OR_RETURN(beside, TransformerSteps::Load(model, options, device, *other));
    FRESCO_RETURN_IF_ERROR(beside->WarmUp());
  }
  FRESCO_RETURN_IF_ERROR(TakeTurns(*steps, beside.get(), options.steps, &measured));
  if (options.recorded > 0) FRESCO_RETURN_IF_ERROR(RecordLayers(*steps, device.str(), options.recorded, &measured));
  return measured;
}

void PrintAsJson(const ModelOptions& model, const BenchOptions& options, const std::string& precision,
                 const std::optional<Precision>& other, const Measurement& measured) {
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
  if (measured.layers.has_value()) {
    report["between_layers_share"] = measured.layers->outside_seconds / measured.layers->seconds;
    if (measured.layers->on_device) report["idle_share"] = measured.idle_share();
    report.update(LimitsJson(measured.limits));
    report.update(LayersJson(*measured.layers, measured.limits));
  }
  PrintJson(report);
}

void Print(const ModelOptions& model, const BenchOptions& options, const std::string& precision,
           const std::optional<Precision>& other, const Measurement& measured) {
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
  if (!measured.layers.has_value()) return;
  if (measured.layers->on_device)
    std::printf("the device has nothing to do in %.1f %% of a step\n", 100 * measured.idle_share());
  PrintLimits(measured.limits);
  std::printf("\na recorded step: %.3f ms\n", 1e3 * measured.layers->seconds);
  PrintLayers(*measured.layers, options.top, measured.limits);
}

absl::Status Run(const ModelOptions& model, const BenchOptions& asked) {
  FRESCO_ASSIGN_OR_RETURN(const BenchOptions options, WithSides(model, asked));
  FRESCO_ASSIGN_OR_RETURN(const at::Device device, PrepareDevice(model.device, model.threads));
  FRESCO_ASSIGN_OR_RETURN(Precision precision, ChoosePrecision(model.precision, device));
  SetAttention(model.attention.value_or(AttentionScheme::kHigh), &precision);
  std::optional<Precision> other;
  if (!options.beside.empty()) {
    FRESCO_ASSIGN_OR_RETURN(other, ChoosePrecision(options.beside, device));
  }
  FRESCO_ASSIGN_OR_RETURN(const Measurement measured, Measure(model, options, device, precision, other));
  (model.json ? PrintAsJson : Print)(model, options, precision.name, other, measured);
  return absl::OkStatus();
}

}  // namespace

int RunBench(const ModelOptions& model, const BenchOptions& options) {
  absl::Status status = CheckBenchOptions(model, options);
  const bool usable = status.ok();
  if (usable) status = CatchTorch("bench", [&] { return Run(model, options); });
  if (status.ok()) return kDone;
  std::fprintf(stderr, "fresco-model: %s\n", std::string(status.message()).c_str());
  return usable ? kFailed : kUsage;
}

}  // namespace fresco
