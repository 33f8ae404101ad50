#include "pipeline/tool/profile.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/median.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/text_file.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/graph_cache.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/memory_timeline.h"
#include "pipeline/engine/profiler.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/tool/draw.h"
#include "pipeline/tool/layer_report.h"
#include "pipeline/tool/memory_history_report.h"
#include "pipeline/tool/profile_report.h"
#include "pipeline/tool/progress_line.h"
#include "pipeline/tool/transformer_steps.h"

namespace fresco {
namespace {

using Steady = std::chrono::steady_clock;

// Of a stage beside the steps, where a call takes long, so many are recorded at most.
constexpr double kLongSeconds = 1;
constexpr int kMostOfLong = 3;
constexpr int kDefaultSteps = 5;
constexpr char kDefaultPrompt[] = "a red apple on a light blue background";

// A call that is made over and over: its result is of no interest.
using StageCall = std::function<absl::Status()>;

absl::StatusOr<double> Time(const StageCall& call) {
  const Steady::time_point begin = Steady::now();
  FRESCO_RETURN_IF_ERROR(call());
  return std::chrono::duration<double>(Steady::now() - begin).count();
}

// Records stages one after the other.
class StageRecorder {
 public:
  static absl::StatusOr<StageRecorder> Make(const at::Device& of) {
    const std::string device = of.str();
    StageRecorder recorder;
    recorder.memory_ = std::make_unique<MemoryTimeline>(&LedgerOf(of), recorder.clock_.get());
    recorder.memory_while_traced_ = of.is_cpu();
    recorder.warm_ups_ = of.is_cpu() ? 1 : GraphLimits().uses_to_record();
    FRESCO_ASSIGN_OR_RETURN(recorder.layers_, MakeRecorder(device, RecordedDetail::kLayers, recorder.clock_.get()));
    FRESCO_ASSIGN_OR_RETURN(recorder.operations_,
                            MakeRecorder(device, RecordedDetail::kOperations, recorder.clock_.get()));
    return recorder;
  }

  // The first warm up, then one is plain and one recorded, in turns, so that a machine whose speed changes changes
  // both; the last is for the trace, whose operations cost time.
  int CallsFor(int count) const { return warm_ups_ + 2 * count + 1; }

  // Makes so many calls; of such as take long fewer, unless `all` of them are wanted.
  absl::Status Record(const std::string& name, int steps, bool all, const StageCall& call) {
    if (!memory_while_traced_) memory_->Begin(name);
    FRESCO_ASSIGN_OR_RETURN(const double first, Time(call));
    memory_->End();
    for (int i = 1; i < warm_ups_; ++i) FRESCO_RETURN_IF_ERROR(call());
    const int count = all || first < kLongSeconds ? steps : std::min(steps, kMostOfLong);
    std::vector<double> plain, ratios;
    std::vector<Recording> recordings;
    for (int i = 0; i < count; ++i) {
      progress_->Show(StrCat(name, " ", i + 1, "/", count), i + 1 == count);
      FRESCO_ASSIGN_OR_RETURN(const double alone, Time(call));
      FRESCO_ASSIGN_OR_RETURN(const double recorded, RecordOne(layers_.get(), call, &recordings));
      plain.push_back(alone);
      ratios.push_back(recorded / alone);
    }
    for (StageTimes& times : AddUpLayers(recordings))
      stages_.push_back({std::move(times), Median(plain), Median(ratios) - 1});
    if (memory_while_traced_) memory_->Begin(name);
    const absl::Status traced = RecordOne(operations_.get(), call, &traced_).status();
    memory_->End();
    return traced;
  }

  MemoryHistory memory() const { return memory_->History(); }  // of a call of each stage

  const std::vector<ProfiledStage>& stages() const { return stages_; }
  std::vector<Recording> TakeTraced() { return std::move(traced_); }  // a call of each stage

 private:
  StageRecorder() = default;

  // How long it took.
  static absl::StatusOr<double> RecordOne(Recorder* recorder, const StageCall& call, std::vector<Recording>* to) {
    FRESCO_RETURN_IF_ERROR(recorder->Begin());
    const absl::StatusOr<double> seconds = Time(call);
    absl::StatusOr<Recording> recording = recorder->End();  // whatever has become of the call
    FRESCO_RETURN_IF_ERROR(seconds.status());
    FRESCO_RETURN_IF_ERROR(recording.status());
    to->push_back(*std::move(recording));
    return seconds;
  }

  std::unique_ptr<SystemClock> clock_ = std::make_unique<SystemClock>();
  std::unique_ptr<MemoryTimeline> memory_;
  // Then its counters lie over the trace's operations. A GPU's allocations are reported to the profiler alone while it
  // is on (MemoryReporting): there it is the first call.
  bool memory_while_traced_ = true;
  int warm_ups_ = 1;  // on a GPU until it has recorded a graph of the calls, so that plain ones are replays
  std::unique_ptr<Recorder> layers_, operations_;
  std::vector<ProfiledStage> stages_;
  std::vector<Recording> traced_;
  std::unique_ptr<ProgressLine> progress_ = std::make_unique<ProgressLine>();
};

// Drawing, from the texts to the picture.
absl::Status RecordDrawing(const ModelOptions& model, DrawOptions draw, const ProfileOptions& options,
                           StageRecorder* recorder, ProfileReport* report) {
  const int steps = draw.steps.value_or(kDefaultSteps);
  draw.steps = recorder->CallsFor(steps);
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, LoadEngine(LoadOptionsOf(model)));
  if (!draw.prompt) draw.prompt = kDefaultPrompt;
  const ImageSpec spec = SpecOf(draw, engine->info());
  const std::vector<const ImageSpec*> specs(static_cast<size_t>(options.batch), &spec);
  std::vector<std::unique_ptr<ImageJob>> jobs;
  FRESCO_RETURN_IF_ERROR(recorder->Record("prepare", steps, /*all=*/false, [&]() -> absl::Status {
    jobs.clear();
    for (auto& job : engine->PrepareAll(specs, TextCache::kPass)) {
      FRESCO_RETURN_IF_ERROR(job.status());
      jobs.push_back(*std::move(job));
    }
    return absl::OkStatus();
  }));
  std::vector<ImageJob*> batch;
  for (const auto& job : jobs) batch.push_back(job.get());
  FRESCO_RETURN_IF_ERROR(recorder->Record("step", steps, /*all=*/true, [&] {
    absl::Status whole;
    for (const absl::Status& status : engine->Step(batch)) whole.Update(status);
    return whole;
  }));
  FRESCO_RETURN_IF_ERROR(
      recorder->Record("decode", steps, /*all=*/false, [&] { return engine->Finish(*jobs.front()).status(); }));
  report->precision = engine->info().precision;
  report->width = spec.width;
  report->height = spec.height;
  report->guidance = spec.guidance_scale;
  return absl::OkStatus();
}

// A preset's steps.
absl::Status RecordPreset(const ModelOptions& model, const DrawOptions& draw, const ProfileOptions& options,
                          StageRecorder* recorder, ProfileReport* report) {
  BenchOptions bench;
  bench.preset = options.preset;
  bench.layers = options.layers;
  bench.batch = options.batch;
  bench.width = draw.width.value_or(0);
  bench.height = draw.height.value_or(0);
  bench.guidance = draw.guidance.value_or(bench.guidance);
  const int count = draw.steps.value_or(kDefaultSteps);
  bench.steps = recorder->CallsFor(count);
  bench.recorded = 0;
  FRESCO_RETURN_IF_ERROR(CheckBenchOptions(model, bench));
  FRESCO_ASSIGN_OR_RETURN(bench, WithSides(model, bench));
  FRESCO_ASSIGN_OR_RETURN(const at::Device device, PrepareDevice(model.device, model.threads));
  FRESCO_ASSIGN_OR_RETURN(Precision precision, ChoosePrecision(model.precision, device));
  SetAttention(model.attention.value_or(AttentionScheme::kHigh), &precision);
  const c10::InferenceMode inference;
  const c10::OptionalDeviceGuard guard(device);
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<TransformerSteps> steps,
                          TransformerSteps::Load(model, bench, device, precision));
  FRESCO_RETURN_IF_ERROR(recorder->Record("step", count, /*all=*/true, [&] { return steps->Time().status(); }));
  report->model = options.preset;
  report->precision = precision.name;
  report->width = bench.width;
  report->height = bench.height;
  report->guidance = bench.guidance;
  return absl::OkStatus();
}

absl::StatusOr<MeasuredLimits> LimitsOf(const std::string& device, const std::vector<ProfiledStage>& stages) {
  std::vector<StageTimes> times;
  for (const ProfiledStage& stage : stages) times.push_back(stage.times);
  return MeasureLimits(device, times);
}

absl::Status CheckOptions(const ModelOptions& model, const DrawOptions& draw, const ProfileOptions& options) {
  if (model.model.empty() == options.preset.empty())
    return absl::InvalidArgumentError("either a model or --preset is needed");
  if (options.layers != 0 && options.preset.empty()) return absl::InvalidArgumentError("--layers goes with --preset");
  if (options.batch < 1 || draw.steps.value_or(1) < 1 || options.top < 0)
    return absl::InvalidArgumentError("--batch and --steps must be at least 1, and --top not negative");
  return absl::OkStatus();
}

absl::Status Profile(const ModelOptions& model, const DrawOptions& draw, const ProfileOptions& options) {
  FRESCO_ASSIGN_OR_RETURN(const at::Device device, PrepareDevice(model.device, model.threads));
  FRESCO_ASSIGN_OR_RETURN(StageRecorder recorder, StageRecorder::Make(device));
  ProfileReport report;
  report.model = model.model;
  report.device = device.str();
  report.batch = options.batch;
  FRESCO_RETURN_IF_ERROR(options.preset.empty() ? RecordDrawing(model, draw, options, &recorder, &report)
                                                : RecordPreset(model, draw, options, &recorder, &report));
  report.stages = recorder.stages();
  report.memory = recorder.memory();
  FRESCO_ASSIGN_OR_RETURN(report.limits, LimitsOf(model.device, report.stages));
  if (!options.trace.empty()) {
    std::vector<Recording> traced = recorder.TakeTraced();
    if (!traced.empty()) traced.emplace_back().trace = MemoryTrace(report.memory, report.device, traced.front().trace);
    FRESCO_ASSIGN_OR_RETURN(const std::string trace, MergeTraces(traced));
    FRESCO_RETURN_IF_ERROR(WriteFileWhole(options.trace, trace));
    report.trace = options.trace;
  }
  if (model.json) {
    PrintProfileAsJson(report);
  } else {
    PrintProfile(report, options.top);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunProfile(const ModelOptions& model, const DrawOptions& draw, const ProfileOptions& options) {
  FRESCO_RETURN_IF_ERROR(CheckOptions(model, draw, options));
  return CatchTorch("profile", [&] { return Profile(model, draw, options); });
}

}  // namespace fresco
