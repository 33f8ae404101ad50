#include "server/scheduler/step_profiler.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "pipeline/base/median.h"
#include "server/scheduler/guarded.h"

namespace fresco {
namespace {

absl::Duration MedianOf(const std::vector<double>& seconds) {
  return seconds.empty() ? absl::ZeroDuration() : absl::Seconds(Median(seconds));
}

// Of what is multiplied.
std::set<std::string> DtypesOf(const std::vector<Recording>& recordings) {
  std::set<std::string> dtypes;
  for (const Recording& recording : recordings) {
    for (const RecordedScope& scope : recording.scopes) {
      if (scope.flops > 0) dtypes.insert(scope.dtype);
    }
  }
  return dtypes;
}

// A step that was not recorded.
struct Plain {
  absl::Duration duration;
  int rows = 0;
  int64_t tokens = 0;
};

}  // namespace

struct StepProfiler::Session {
  int64_t number = 0;
  Order order;
  Done done;
  absl::Status failure;
  std::optional<Plain> plain;  // the last step, where it was not recorded
  std::vector<double> plain_seconds, recorded_seconds, ratios;
  StepsProfile profile;
};

StepProfiler::StepProfiler(ProfilerSource source, Clock* clock) : source_(std::move(source)), clock_(clock) {}
StepProfiler::~StepProfiler() = default;

absl::StatusOr<int64_t> StepProfiler::Start(Order order, Done done) {
  MutexLock lock(&mutex_);
  if (session_ != nullptr) {
    return absl::AbortedError(absl::StrCat("the model '", session_->order.model,
                                           "' is being profiled already, and a process has one profiler"));
  }
  if (recording_) return absl::AbortedError("a step that an earlier profile began to record has not ended");
  session_ = std::make_unique<Session>();
  session_->number = ++sessions_;
  session_->order = std::move(order);
  session_->done = std::move(done);
  wanted_ = true;
  return session_->number;
}

absl::StatusOr<StepsProfile> StepProfiler::Take(int64_t number) {
  MutexLock lock(&mutex_);
  if (session_ == nullptr || session_->number != number) return absl::InternalError("there is no such profile");
  const std::unique_ptr<Session> ended = std::move(session_);
  wanted_ = false;
  if (!ended->failure.ok()) return ended->failure;
  ended->profile.recorded = MedianOf(ended->recorded_seconds);
  ended->profile.plain = MedianOf(ended->plain_seconds);
  if (!ended->ratios.empty()) ended->profile.overhead = Median(ended->ratios) - 1;
  return std::move(ended->profile);
}

StepProfiler::Step::Step(const std::shared_ptr<StepProfiler>& profiler, const std::string& model,
                         const std::string& device, int rows, int64_t tokens) {
  if (profiler == nullptr || !profiler->wanted_) return;
  profiler_ = profiler;
  model_ = model;
  device_ = device;
  rows_ = rows;
  tokens_ = tokens;
  profiler_->Enter(this);
}

StepProfiler::Step::~Step() {
  if (recorder_ == nullptr) return;
  recorder_.reset();  // which ends what has begun
  profiler_->StopRecording();
}

bool StepProfiler::Step::End(bool made, absl::Duration duration) {
  const int64_t number = std::exchange(number_, 0);
  if (number == 0) return false;
  if (recorder_ != nullptr && made) return profiler_->EndRecorded(this, number, duration);
  if (recorder_ != nullptr) {
    recorder_.reset();
    profiler_->StopRecording();
  } else if (made) {
    profiler_->AddPlain(*this, number, duration);
  }
  return false;
}

void StepProfiler::Enter(Step* step) {
  RecordedDetail detail;
  {
    MutexLock lock(&mutex_);
    if (session_ == nullptr || Complete() || !session_->failure.ok()) return;
    const std::string& bound = session_->profile.device.empty() ? session_->order.device : session_->profile.device;
    if (session_->order.model != step->model_ || (!bound.empty() && bound != step->device_)) return;
    step->number_ = session_->number;
    if (!session_->plain.has_value() || recording_) return;
    recording_ = true;
    detail = session_->order.detail;
  }
  const absl::Time begin = clock_->Now();
  auto recorder = Guarded("the profiler", [&] { return source_.recorder(step->device_, detail); });
  absl::Status begun = recorder.status();
  if (begun.ok()) begun = Guarded("the profiler", [&] { return (*recorder)->Begin(); });
  if (!begun.ok()) {
    StopRecording();
    Fail(step->number_, begun);
    step->number_ = 0;
    return;
  }
  step->recorder_ = *std::move(recorder);
  const absl::Duration pause = clock_->Now() - begin;
  MutexLock lock(&mutex_);
  if (IsOf(step->number_)) session_->profile.pauses += pause;
}

void StepProfiler::AddPlain(const Step& step, int64_t number, absl::Duration duration) {
  MutexLock lock(&mutex_);
  if (!IsOf(number)) return;
  std::string& device = session_->profile.device;
  if (device.empty()) device = step.device_;
  if (device != step.device_) return;  // another was first
  session_->plain = Plain{duration, step.rows_, step.tokens_};
  session_->plain_seconds.push_back(absl::ToDoubleSeconds(duration));
}

bool StepProfiler::EndRecorded(Step* step, int64_t number, absl::Duration duration) {
  const absl::Time begin = clock_->Now();
  absl::StatusOr<Recording> recording = Guarded("the profiler", [&] { return step->recorder_->End(); });
  step->recorder_.reset();
  StopRecording();
  if (!recording.ok()) {
    Fail(number, recording.status());
    return false;
  }
  if (!Add(*step, number, duration, *std::move(recording), clock_->Now() - begin)) return false;
  MeasureLimits(*step, number);
  Done done;
  {
    MutexLock lock(&mutex_);
    if (session_ != nullptr && session_->number == number) done = std::exchange(session_->done, nullptr);
  }
  if (done != nullptr) GuardedVoid("the callback", done).IgnoreError();
  return true;
}

// Whether it was the last.
bool StepProfiler::Add(const Step& step, int64_t number, absl::Duration duration, Recording recording,
                       absl::Duration pause) {
  MutexLock lock(&mutex_);
  if (!IsOf(number)) return false;
  StepsProfile& profile = session_->profile;
  profile.recordings.push_back(std::move(recording));
  profile.pauses += pause;
  session_->recorded_seconds.push_back(absl::ToDoubleSeconds(duration));
  const Plain plain = std::exchange(session_->plain, std::nullopt).value_or(Plain());
  const bool alike = plain.rows == step.rows_ && plain.tokens == step.tokens_;
  if (alike && plain.duration > absl::ZeroDuration())
    session_->ratios.push_back(absl::FDivDuration(duration, plain.duration));
  return Complete();
}

// Here, where nothing else computes on the device meanwhile. It does without where that fails.
void StepProfiler::MeasureLimits(const Step& step, int64_t number) {
  std::set<std::string> dtypes;
  {
    MutexLock lock(&mutex_);
    if (session_ == nullptr || session_->number != number) return;
    dtypes = DtypesOf(session_->profile.recordings);
  }
  const absl::Time begin = clock_->Now();
  auto peaks = Guarded("the profiler", [&] { return source_.peaks(step.device_, dtypes); });
  auto bandwidth = Guarded("the profiler", [&] { return source_.bandwidth(step.device_); });
  const absl::Duration pause = clock_->Now() - begin;
  MutexLock lock(&mutex_);
  if (session_ == nullptr || session_->number != number) return;
  session_->profile.pauses += pause;
  if (peaks.ok()) session_->profile.limits.peaks = *std::move(peaks);
  if (bandwidth.ok()) session_->profile.limits.bandwidth = *bandwidth;
}

void StepProfiler::Fail(int64_t number, const absl::Status& failure) {
  Done done;
  {
    MutexLock lock(&mutex_);
    if (!IsOf(number)) return;
    session_->failure = failure;
    done = std::exchange(session_->done, nullptr);
  }
  if (done != nullptr) GuardedVoid("the callback", done).IgnoreError();
}

void StepProfiler::StopRecording() {
  MutexLock lock(&mutex_);
  recording_ = false;
}

bool StepProfiler::IsOf(int64_t number) const {
  return session_ != nullptr && session_->number == number && !Complete();
}

bool StepProfiler::Complete() const {
  return static_cast<int>(session_->profile.recordings.size()) >= session_->order.steps;
}

}  // namespace fresco
