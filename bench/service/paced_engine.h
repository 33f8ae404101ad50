// An engine that takes real time as a device beside the processor would: its thread sleeps.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "tests/support/forwarding_engine.h"

namespace fresco {

// What an engine's calls take, however many images they are of.
struct Pace {
  absl::Duration prepare, step, finish;
};

class PacedEngine final : public ForwardingEngine {
 public:
  // `before_first_step` (may be empty) is called once, on the device's thread, and may keep it waiting.
  PacedEngine(std::unique_ptr<Engine> engine, const Pace& pace, std::function<void()> before_first_step)
      : ForwardingEngine(std::move(engine)), pace_(pace), before_first_step_(std::move(before_first_step)) {}

  std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> PrepareAll(absl::Span<const ImageSpec* const> specs,
                                                                    TextCache cache) override {
    Sleep(pace_.prepare);
    return ForwardingEngine::PrepareAll(specs, cache);
  }
  std::vector<absl::Status> Step(absl::Span<ImageJob* const> batch) override {
    if (before_first_step_) std::exchange(before_first_step_, nullptr)();
    Sleep(pace_.step);
    return ForwardingEngine::Step(batch);
  }
  absl::StatusOr<Image> Finish(ImageJob& job) override {
    Sleep(pace_.finish);
    return ForwardingEngine::Finish(job);
  }

 private:
  static void Sleep(absl::Duration duration) {
    if (duration > absl::ZeroDuration()) std::this_thread::sleep_for(absl::ToChronoNanoseconds(duration));
  }

  const Pace pace_;
  std::function<void()> before_first_step_;  // the device's thread's
};

}  // namespace fresco
