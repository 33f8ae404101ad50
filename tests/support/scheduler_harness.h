// A scheduler with fake engines, a fake clock and a fake encoder, for tests.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "pipeline/base/mutex.h"
#include "server/scheduler/scheduler.h"
#include "tests/support/event_reader.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_engine.h"
#include "tests/support/gate.h"

namespace fresco {

// Writes down what it hears. Thread-safe.
class RecordingObserver final : public SchedulerObserver {
 public:
  struct Done {
    std::string id;
    absl::StatusCode code = absl::StatusCode::kOk;
    absl::Duration duration;
  };

  void OnQueueDepth(const std::string& model, const std::string& priority, int depth) override {
    MutexLock lock(&mutex_);
    depths_[model + "/" + priority] = depth;
  }
  void OnRequestsRunning(int running) override {
    MutexLock lock(&mutex_);
    running_ = running;
  }
  void OnQueueWait(const std::string&, const std::string& priority, absl::Duration wait,
                   absl::Duration predicted) override {
    MutexLock lock(&mutex_);
    waits_.push_back(wait);
    predictions_[priority].push_back(predicted);
  }
  void OnRefused(const std::string& model, const std::string& reason) override { Count(model + " " + reason); }
  void OnPreempted(const std::string& model, const std::string& device) override {
    Count(model + " preempted on " + device);
  }
  void OnBatchSplit(const std::string& model, const std::string& device) override {
    Count(model + " split on " + device);
  }
  void OnDeviceLost(const std::string& device, const std::string&) override { Count("lost " + device); }
  void OnImageMoved(const std::string& model, const std::string& device) override {
    Count(model + " moved from " + device);
  }
  void OnStage(const std::string&, const std::string& stage, absl::Duration duration) override {
    MutexLock lock(&mutex_);
    stages_[stage].push_back(duration);
  }
  void OnStep(const std::string&, const std::string&, int batch_size, absl::Duration duration) override {
    MutexLock lock(&mutex_);
    batches_.push_back(batch_size);
    steps_[batch_size].push_back(duration);
  }
  void OnImage(const std::string&) override {
    MutexLock lock(&mutex_);
    ++images_;
  }
  void OnRequestDone(const std::string& id, const std::string&, const absl::Status& status,
                     absl::Duration duration) override {
    MutexLock lock(&mutex_);
    done_.push_back({id, status.code(), duration});
  }

  void OnUsage(const std::string& tenant, const Usage& usage) override {
    MutexLock lock(&mutex_);
    Usage& sum = usage_[tenant];
    sum = {sum.images + usage.images, sum.steps + usage.steps, sum.device_time + usage.device_time};
  }

  Usage usage(const std::string& tenant) const {
    MutexLock lock(&mutex_);
    const auto found = usage_.find(tenant);
    return found == usage_.end() ? Usage() : found->second;
  }
  int depth(const std::string& model_and_priority) const {
    MutexLock lock(&mutex_);
    const auto found = depths_.find(model_and_priority);
    return found == depths_.end() ? -1 : found->second;
  }
  int running() const {
    MutexLock lock(&mutex_);
    return running_;
  }
  std::vector<absl::Duration> waits() const {
    MutexLock lock(&mutex_);
    return waits_;
  }
  // What steps of so many images took.
  std::vector<absl::Duration> steps(int batch_size) const {
    MutexLock lock(&mutex_);
    const auto found = steps_.find(batch_size);
    return found == steps_.end() ? std::vector<absl::Duration>() : found->second;
  }
  // Of the requests of a priority that have started.
  std::vector<absl::Duration> predictions(const std::string& priority) const {
    MutexLock lock(&mutex_);
    const auto found = predictions_.find(priority);
    return found == predictions_.end() ? std::vector<absl::Duration>() : found->second;
  }
  // "fake queue_full", "fake preempted on cpu", "fake split on cpu", "lost cpu", "fake moved from cpu": how often.
  std::map<std::string, int> counts() const {
    MutexLock lock(&mutex_);
    return counts_;
  }
  std::map<std::string, std::vector<absl::Duration>> stages() const {
    MutexLock lock(&mutex_);
    return stages_;
  }
  std::vector<int> batches() const {
    MutexLock lock(&mutex_);
    return batches_;
  }
  int images() const {
    MutexLock lock(&mutex_);
    return images_;
  }
  std::vector<Done> done() const {
    MutexLock lock(&mutex_);
    return done_;
  }

 private:
  void Count(const std::string& what) {
    MutexLock lock(&mutex_);
    ++counts_[what];
  }

  mutable Mutex mutex_;
  std::map<std::string, std::vector<absl::Duration>> predictions_ FRESCO_GUARDED_BY(mutex_);
  std::map<std::string, int> counts_ FRESCO_GUARDED_BY(mutex_);
  std::map<std::string, int> depths_ FRESCO_GUARDED_BY(mutex_);
  int running_ FRESCO_GUARDED_BY(mutex_) = -1;
  std::vector<absl::Duration> waits_ FRESCO_GUARDED_BY(mutex_);
  std::map<std::string, std::vector<absl::Duration>> stages_ FRESCO_GUARDED_BY(mutex_);
  std::vector<int> batches_ FRESCO_GUARDED_BY(mutex_);
  std::map<int, std::vector<absl::Duration>> steps_ FRESCO_GUARDED_BY(mutex_);  // by images
  int images_ FRESCO_GUARDED_BY(mutex_) = 0;
  std::vector<Done> done_ FRESCO_GUARDED_BY(mutex_);
  std::map<std::string, Usage> usage_ FRESCO_GUARDED_BY(mutex_);  // by tenant
};

// What a scheduler knows that has measured steps of images of 16 x 16 pixels, each to take so long, whatever their
// number: so that sharing steps pays.
inline CostModel FlatCosts(absl::Duration step, const std::string& model = "fake") {
  constexpr int kMostRows = 16;
  CostModel costs;
  for (int rows = 1; rows <= kMostRows; ++rows) costs.RecordStep(costs.Curve(model, 1), rows, step);
  return costs;
}

// "16x16 7 4 45": the size and the first pixel.
inline std::string PictureText(int width, int height, const std::vector<uint8_t>& pixel) {
  return absl::StrCat(width, "x", height, " ", pixel[0], " ", pixel[1], " ", pixel[2]);
}

inline absl::StatusOr<std::string> FakeEncode(const Image& image, const EncodeOptions&) {
  return PictureText(image.width, image.height, image.rgb);
}

class SchedulerHarness {
 public:
  using Encoder = std::function<absl::StatusOr<std::string>(const Image&, const EncodeOptions&)>;

  // `encoder`: behind the gates; pictures are PictureText unless it is given.
  explicit SchedulerHarness(SchedulerOptions options = {}, const Encoder& encoder = FakeEncode) {
    options.encoder = [this, encoder](const Image& image, const EncodeOptions& encode) {
      (encode.format == ImageFormat::kJpeg ? preview_gate : image_gate).Pass();
      return encoder(image, encode);
    };
    scheduler = std::make_unique<Scheduler>(options, &clock, &observer);
  }

  ~SchedulerHarness() {
    OpenGates();
    scheduler.reset();
  }

  void OpenGates() {
    for (auto& [device, script] : scripts) {
      script->prepare_gate()->Open();
      script->step_gate()->Open();
      script->finish_gate()->Open();
    }
    image_gate.Open();
    preview_gate.Open();
  }

  // Loads a fake model and waits for it. Models of one device share its script.
  FakeScript* AddModel(const std::string& model = "fake", const std::string& device = "cpu") {
    std::shared_ptr<FakeScript>& script = scripts[device];
    if (script == nullptr) script = std::make_shared<FakeScript>();
    const auto loader = [this, model, device, script]() -> absl::StatusOr<std::unique_ptr<Engine>> {
      return std::make_unique<FakeEngine>(FakeModelInfo(model, device), script, &clock);
    };
    if (const absl::Status status = Load(model, device, loader); !status.ok())
      throw std::runtime_error(status.ToString());
    return script.get();
  }

  // What the loaded-callback heard.
  absl::Status Load(const std::string& model, const std::string& device, Scheduler::EngineLoader loader) {
    struct Heard {
      Gate gate;
      absl::Status status;
    };
    const auto heard = std::make_shared<Heard>();
    scheduler->AddModel(model, device, std::move(loader), [heard](const absl::StatusOr<EngineView>& engine) {
      heard->status = absl::Status(engine.status().code(), engine.status().message());
      heard->gate.Pass();
    });
    heard->gate.AwaitPassed(1);
    return heard->status;
  }

  // Images of 16 x 16 pixels with seeds 0, 1, … and the id as prompt.
  static GenerationRequest Request(const std::string& id, int steps = 4, int images = 1) {
    GenerationRequest request;
    request.id = id;
    request.model = "fake";
    for (int i = 0; i < images; ++i) {
      ImageSpec& spec = request.images.emplace_back();
      spec.prompt = id;
      spec.width = spec.height = 16;
      spec.steps = steps;
      spec.seed = i;
    }
    return request;
  }

  static GenerationRequest Sized(GenerationRequest request, int side) {
    for (ImageSpec& spec : request.images) spec.width = spec.height = side;
    return request;
  }

  // Accepted, or the test fails.
  std::unique_ptr<EventReader> Submit(GenerationRequest request) {
    auto channel = scheduler->Submit(std::move(request));
    if (!channel.ok()) throw std::runtime_error(channel.status().ToString());
    return std::make_unique<EventReader>(*channel);
  }

  // Waits until nothing is left. Nothing can be submitted afterwards.
  void Settle() { scheduler->Drain(absl::InfiniteFuture()); }

  FakeClock clock;
  RecordingObserver observer;
  std::map<std::string, std::shared_ptr<FakeScript>> scripts;  // by device
  Gate image_gate;                                             // before a finished picture is encoded
  Gate preview_gate;                                           // before a preview is
  std::unique_ptr<Scheduler> scheduler;
};

// "a0 b1": prompts and steps done of a step's images.
inline std::string StepText(const FakeStep& step) {
  std::string text;
  for (const FakeStep::Entry& image : step.images) {
    absl::StrAppend(&text, text.empty() ? "" : " ", image.prompt, image.step);
  }
  return text;
}

inline std::vector<std::string> StepTexts(const FakeScript& script) {
  std::vector<std::string> texts;
  for (const FakeStep& step : script.steps()) texts.push_back(StepText(step));
  return texts;
}

}  // namespace fresco
