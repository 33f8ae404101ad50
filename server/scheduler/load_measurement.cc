#include "server/scheduler/load_measurement.h"

#include <algorithm>
#include <memory>
#include <set>
#include <tuple>
#include <utility>

#include "pipeline/base/status.h"
#include "server/scheduler/engine_calls.h"
#include "server/scheduler/policy/stage_times.h"

namespace fresco {
namespace {

// Of what is measured the last counts: the first finds code and memory cold.
constexpr int kRuns = 2;

class Measurer {
 public:
  Measurer(const std::string& model, Engine* engine, const CostModel& known, const LoadMeasurement& measurement,
           Clock* clock, std::vector<std::unique_ptr<ImageJob>>* jobs)
      : model_(model),
        engine_(engine),
        measurement_(measurement),
        clock_(clock),
        jobs_(*jobs),
        end_(clock->Now() + measurement.limit) {
    for (const MeasuredStep& step : known.Measured()) known_.emplace(step.model, step.tokens, step.rows);
  }

  std::vector<MeasuredStep> Measure() {
    const ModelInfo& info = engine_->info();
    if (KnowsDefault()) return {};
    int last_width = 0, last_height = 0;
    for (int divisor : {4, 2, 1}) {
      const int width = Side(info.default_width / divisor), height = Side(info.default_height / divisor);
      if (width == last_width && height == last_height) continue;
      last_width = width;
      last_height = height;
      if (!MeasureSize(SpecOf(width, height))) break;
    }
    return std::move(measured_);
  }

 private:
  int Side(int pixels) const {
    const int multiple = engine_->info().size_multiple;
    return std::max(multiple, pixels / multiple * multiple);
  }

  ImageSpec SpecOf(int width, int height) const {
    ImageSpec spec;
    spec.width = width;
    spec.height = height;
    spec.max_sequence_length = engine_->info().default_max_sequence_length;
    spec.guidance_scale = std::max(2.0F, engine_->info().default_guidance_scale);
    return spec;
  }

  bool KnowsDefault() const {
    const ModelInfo& info = engine_->info();
    const ImageLoad load = engine_->LoadOf(SpecOf(Side(info.default_width), Side(info.default_height)));
    return known_.contains({model_, load.tokens, 2}) && known_.contains({TextCurveName(model_), load.text_tokens, 1}) &&
           known_.contains({DecodeCurveName(model_), load.picture_tokens, 1});
  }

  // False: enough.
  bool MeasureSize(ImageSpec guided) {
    guided.steps = 2 * kRuns;  // alone, and with the other
    ImageSpec other = guided;
    other.steps = kRuns;
    ImageSpec plain = other;
    plain.guidance_scale = 1;
    if (!Prepare({&guided, &other, &plain}, /*texts=*/1)) return false;
    ImageJob* const first = jobs_[0].get();
    if (!Step({first}) || !Step({first, jobs_[1].get()}) || !Step({jobs_[2].get()})) return false;
    if (!Decode(first)) return false;
    if (known_.contains({TextCurveName(model_), engine_->LoadOf(guided).text_tokens, 2})) return true;
    guided.prompt = "two texts";
    return Prepare({&guided}, /*texts=*/2);
  }

  bool Prepare(const std::vector<const ImageSpec*>& specs, int texts) {
    const ImageLoad load = engine_->LoadOf(*specs.front());
    const CurveId curve = TextCurve(&costs_, model_, load.text_tokens);
    if (!HasTimeFor(TextSeconds(costs_, curve, texts))) return false;
    jobs_.clear();
    const absl::Time begin = clock_->Now();
    const auto size = int64_t{texts} * load.text_tokens;
    const absl::Status status = measurement_.watched(DeviceCall::kPrepare, size, [&] {
      absl::Status all;
      for (auto& job : CallPrepare(engine_, specs, TextCache::kPass)) {
        all.Update(job.status());
        if (job.ok()) jobs_.push_back(*std::move(job));
      }
      return all;
    });
    if (!status.ok()) return false;
    Add(TextCurveName(model_), curve, load.text_tokens, texts, clock_->Now() - begin, 0);
    return true;
  }

  bool Step(const std::vector<ImageJob*>& batch) {
    MeasuredStep cell;
    int64_t state = 0;
    for (const ImageJob* job : batch) {
      const ImageLoad load = engine_->LoadOf(job->spec());
      cell.tokens = load.tokens;
      cell.rows += load.rows;
      state += load.state_bytes;
    }
    const CurveId curve = costs_.Curve(model_, cell.tokens);
    absl::Duration duration;
    for (int run = 0; run < kRuns; ++run) {
      if (!HasTimeFor(costs_.StepSeconds(curve, cell.rows))) return false;
      if (!TakePeakBytes().ok()) return false;
      const absl::Time begin = clock_->Now();
      std::vector<StepTime> times;  // of an engine whose steps go on after the call
      const absl::Status status = measurement_.watched(DeviceCall::kStep, int64_t{cell.rows} * cell.tokens, [&] {
        absl::Status all;
        for (const absl::Status& of_image : CallStep(engine_, batch)) all.Update(of_image);
        times = CallTakeStepTimes(engine_, /*wait=*/true);
        return all;
      });
      if (!status.ok()) return false;
      duration = times.empty() ? clock_->Now() - begin : absl::Seconds(times.back().seconds);
      costs_.RecordStep(curve, cell.rows, duration);
      const absl::StatusOr<int64_t> peak = TakePeakBytes();
      if (!peak.ok()) return false;
      cell.activation_bytes = std::max<int64_t>(0, *peak - measurement_.kept_bytes - state);
    }
    Add(model_, curve, cell.tokens, cell.rows, duration, cell.activation_bytes);
    return true;
  }

  absl::StatusOr<int64_t> TakePeakBytes() {
    int64_t peak = 0;
    FRESCO_RETURN_IF_ERROR(measurement_.watched(DeviceCall::kAsk, 0, [&] {
      peak = CallTakePeakBytes(engine_);
      return absl::OkStatus();
    }));
    return peak;
  }

  bool Decode(ImageJob* job) {
    const ImageLoad load = engine_->LoadOf(job->spec());
    const CurveId curve = DecodeCurve(&costs_, model_, load.picture_tokens);
    if (!HasTimeFor(DecodeSeconds(costs_, curve))) return false;
    if (!TakePeakBytes().ok()) return false;
    const absl::Time begin = clock_->Now();
    const absl::Status status =
        measurement_.watched(DeviceCall::kFinish, load.tokens, [&] { return CallFinish(engine_, job).status(); });
    if (!status.ok()) return false;
    const absl::Duration duration = clock_->Now() - begin;
    const absl::StatusOr<int64_t> peak = TakePeakBytes();
    if (!peak.ok()) return false;
    int64_t state = 0;
    for (const auto& kept : jobs_) state += engine_->LoadOf(kept->spec()).state_bytes;
    const int64_t activations = *peak - measurement_.kept_bytes - state;
    Add(DecodeCurveName(model_), curve, load.picture_tokens, 1, duration, std::max<int64_t>(0, activations));
    return true;
  }

  bool HasTimeFor(double seconds) const { return clock_->Now() + absl::Seconds(seconds) <= end_; }

  void Add(const std::string& curve_name, CurveId curve, int tokens, int rows, absl::Duration duration,
           int64_t activation_bytes) {
    costs_.RecordStep(curve, rows, duration);
    if (duration <= absl::ZeroDuration() || known_.contains({curve_name, tokens, rows})) return;
    const auto [place, is_new] = known_.emplace(curve_name, tokens, rows);
    if (!is_new) return;
    measured_.push_back({curve_name, tokens, rows, absl::ToDoubleSeconds(duration), 1, activation_bytes});
  }

  const std::string model_;
  Engine* const engine_;
  const LoadMeasurement measurement_;
  Clock* const clock_;
  std::vector<std::unique_ptr<ImageJob>>& jobs_;
  const absl::Time end_;
  std::set<std::tuple<std::string, int, int>> known_;  // curve's name, tokens, rows
  CostModel costs_;                                    // of this measurement alone
  std::vector<MeasuredStep> measured_;
};

}  // namespace

std::vector<MeasuredStep> MeasureModel(const std::string& model, Engine* engine, const CostModel& known,
                                       const LoadMeasurement& measurement, Clock* clock,
                                       std::vector<std::unique_ptr<ImageJob>>* jobs) {
  return Measurer(model, engine, known, measurement, clock, jobs).Measure();
}

}  // namespace fresco
