// An engine that passes every call on to another and notes when the calls that draw began and ended: what lies between
// them is what scheduling costs its device.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "pipeline/engine/engine.h"

namespace fresco {

// Of the device's thread while an engine is used; read by others when it is not.
struct CallTimes {
  using Clock = std::chrono::steady_clock;

  double step_seconds = 0;    // within Step
  double text_seconds = 0;    // within Prepare(All)
  double decode_seconds = 0;  // within Finish
  double other_seconds = 0;   // within Preview, Park, Resume
  int steps = 0;
  int images = 0;  // over all steps
  Clock::time_point first, last;
  std::vector<double> between_steps;  // seconds from a step's end to the next one's begin, if nothing else was called

  bool any() const { return first != Clock::time_point(); }
  // Of the device's thread from the first call's begin to the last one's end, in no call.
  double OverheadSeconds() const {
    return std::chrono::duration<double>(last - first).count() - step_seconds - text_seconds - decode_seconds -
           other_seconds;
  }
};

class TimedEngine final : public Engine {
 public:
  // `times` outlives it.
  TimedEngine(std::unique_ptr<Engine> engine, CallTimes* times) : engine_(std::move(engine)), times_(*times) {}

  const ModelInfo& info() const override { return engine_->info(); }
  EngineStats stats() const override { return engine_->stats(); }
  absl::Status WarmUp() override { return engine_->WarmUp(); }
  int64_t TakePeakBytes() override { return engine_->TakePeakBytes(); }  // part of scheduling
  DeviceMemory MemoryOfDevice() override { return engine_->MemoryOfDevice(); }
  absl::Status Validate(const ImageSpec& spec) const override { return engine_->Validate(spec); }
  std::string BatchKey(const ImageSpec& spec) const override { return engine_->BatchKey(spec); }
  ImageLoad LoadOf(const ImageSpec& spec) const override { return engine_->LoadOf(spec); }
  std::vector<int> TextsToEncode(absl::Span<const ImageSpec* const> specs) const override {
    return engine_->TextsToEncode(specs);
  }
  absl::StatusOr<std::unique_ptr<ImageJob>> Prepare(const ImageSpec& spec) override {
    return Timed(&times_.text_seconds, [&] { return engine_->Prepare(spec); });
  }
  std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> PrepareAll(absl::Span<const ImageSpec* const> specs,
                                                                    TextCache cache) override {
    return Timed(&times_.text_seconds, [&] { return engine_->PrepareAll(specs, cache); });
  }
  std::vector<absl::Status> Step(absl::Span<ImageJob* const> batch) override {
    const auto begin = Begin();
    if (stepped_last_) times_.between_steps.push_back(Seconds(begin - times_.last));
    auto statuses = engine_->Step(batch);
    times_.step_seconds += End(begin);
    ++times_.steps;
    times_.images += static_cast<int>(batch.size());
    stepped_last_ = true;
    return statuses;
  }
  absl::StatusOr<Image> Preview(const ImageJob& job, int max_side) override {
    return Timed(&times_.other_seconds, [&] { return engine_->Preview(job, max_side); });
  }
  absl::StatusOr<Image> Finish(ImageJob& job) override {
    return Timed(&times_.decode_seconds, [&] { return engine_->Finish(job); });
  }
  // On another thread than the device's.
  absl::StatusOr<Image> FinishBeside(ImageJob& job) override { return engine_->FinishBeside(job); }
  absl::Status Park(ImageJob& job) override {
    return Timed(&times_.other_seconds, [&] { return engine_->Park(job); });
  }
  absl::StatusOr<std::unique_ptr<ImageJob>> Snapshot(ImageJob& job) override {
    return engine_->Snapshot(job);  // part of scheduling, too
  }
  absl::Status Resume(ImageJob& job) override {
    return Timed(&times_.other_seconds, [&] { return engine_->Resume(job); });
  }

 private:
  using Time = CallTimes::Clock::time_point;

  static double Seconds(CallTimes::Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }
  Time Begin() {
    const Time now = CallTimes::Clock::now();
    if (!times_.any()) {
      times_.first = now;
      stepped_last_ = false;
    }
    return now;
  }
  double End(Time begin) {
    times_.last = CallTimes::Clock::now();
    return Seconds(times_.last - begin);
  }
  template <typename Call>
  std::invoke_result_t<Call> Timed(double* seconds, const Call& call) {
    const Time begin = Begin();
    stepped_last_ = false;
    auto result = call();
    *seconds += End(begin);
    return result;
  }

  const std::unique_ptr<Engine> engine_;
  CallTimes& times_;
  bool stepped_last_ = false;
};

}  // namespace fresco
