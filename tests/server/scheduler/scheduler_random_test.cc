// Everything at once, at random: models come and go, devices are lost, requests are cancelled, and what is drawn is
// right, once, and leaves nothing.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "server/scheduler/scheduler.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using Stage = FakeScript::Stage;

class Trace {
 public:
  explicit Trace(int seed) : random_(seed), harness_(std::make_unique<SchedulerHarness>(Options())) {
    for (const char* device : kDevices) {
      for (const char* model : kModels) {
        if (OneIn(4) && std::string(device) != "cpu") continue;
        AddModel(model, device);
      }
    }
  }

  void Run() {
    for (int i = 0; i < 150; ++i) Do();
    for (auto& [id, asked] : asked_) Check(id, &asked);
    harness_->Settle();
    harness_->scheduler.reset();
    for (const auto& [device, script] : scripts_) EXPECT_EQ(script->live_jobs(), 0) << device;
    EXPECT_EQ(loads_told_, loads_);
    EXPECT_EQ(removals_told_, removals_);
  }

 private:
  static constexpr const char* kDevices[] = {"cuda:0", "cuda:1", "cpu", "rocm:0"};
  static constexpr const char* kModels[] = {"fake", "more"};
  struct Asked {
    GenerationRequest request;
    std::unique_ptr<EventReader> reader;
    bool cancelled = false;
  };

  int Below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  bool OneIn(int n) { return Below(n) == 0; }

  SchedulerOptions Options() {
    SchedulerOptions options;
    options.max_batch = 1 + Below(4);
    options.max_resident = options.max_batch + Below(3);
    options.core.policy = kBatchingPolicyNames[Below(3) == 0 ? Below(3) : 2];
    options.decoding = OneIn(2) ? Decoding::kBesideSteps : Decoding::kBetweenSteps;
    options.measure_at_load = OneIn(3) ? absl::Minutes(1) : absl::ZeroDuration();
    options.max_queue = 1000;
    options.core.fairness_window = absl::Seconds(1);
    if (OneIn(2)) options.costs = FlatCosts(absl::Milliseconds(1));
    return options;
  }

  void AddModel(const std::string& model, const std::string& device) {
    std::shared_ptr<FakeScript>& script = scripts_[device];
    if (script == nullptr) {
      script = std::make_shared<FakeScript>();
      script->SetDurations({}, absl::Milliseconds(OneIn(2) ? 1 : 0), {});
      if (OneIn(3)) script->SetNoRoomBeside();
      if (OneIn(3)) script->SetMemoryLimit(1 + Below(3));
    }
    ++loads_;
    harness_->scheduler->AddModel(
        model, device,
        [this, model, device, script = script]() -> absl::StatusOr<std::unique_ptr<Engine>> {
          ModelInfo info = FakeModelInfo(model, device);
          info.batch_invariant = device == "cpu";
          return std::make_unique<FakeEngine>(info, script, &harness_->clock);
        },
        [this](const auto&) { ++loads_told_; });
  }

  void Do() {
    const int what = Below(100);
    if (what < 55) return Submit();
    if (what < 65) return Cancel();
    if (what < 72) return AddModel(kModels[Below(2)], kDevices[Below(4)]);
    if (what < 80) return Remove();
    if (what < 82 && lost_ < 2) return Lose();
    if (what < 90) harness_->clock.Advance(absl::Milliseconds(Below(2000)));
    if (what < 95 && !asked_.empty()) {
      Asked& asked = std::next(asked_.begin(), Below(static_cast<int>(asked_.size())))->second;
      if (asked.reader != nullptr) Check(asked.request.id, &asked);
    }
  }

  void Submit() {
    GenerationRequest request = SchedulerHarness::Sized(
        SchedulerHarness::Request("r" + std::to_string(next_++), 1 + Below(6), 1 + Below(3)), 16 * (1 + Below(2)));
    request.model = kModels[Below(2)];
    request.priority = static_cast<RequestPriority>(Below(3));
    request.tenant = std::string(1, static_cast<char>('a' + Below(3)));
    request.preview_every = Below(3);
    const bool deterministic = OneIn(2);
    for (ImageSpec& spec : request.images) spec.deterministic = deterministic;
    auto channel = harness_->scheduler->Submit(request);
    if (!channel.ok()) {
      EXPECT_TRUE(absl::IsUnavailable(channel.status()) || absl::IsResourceExhausted(channel.status()))
          << channel.status();
      return;
    }
    Asked& asked = asked_[request.id];
    asked.reader = std::make_unique<EventReader>(*channel);
    asked.request = std::move(request);
  }

  void Cancel() {
    if (asked_.empty()) return;
    Asked& asked = std::next(asked_.begin(), Below(static_cast<int>(asked_.size())))->second;
    asked.cancelled = harness_->scheduler->Cancel(asked.request.tenant, asked.request.id, {}).ok() || asked.cancelled;
  }

  void Remove() {
    if (harness_->scheduler
            ->RemoveModel(kModels[Below(2)], kDevices[Below(4)], OneIn(2) ? Removal::kIfIdle : Removal::kWhenDone,
                          [this](const absl::Status&) { ++removals_told_; })
            .ok())
      ++removals_;
  }

  void Lose() {
    ++lost_;
    const auto script = std::next(scripts_.begin(), Below(static_cast<int>(scripts_.size())))->second;
    static constexpr Stage kStages[] = {Stage::kPrepare, Stage::kStep,   Stage::kFinish,
                                        Stage::kPark,    Stage::kResume, Stage::kSnapshot};
    for (int i = 0; i < 3; ++i) {
      const Stage stage = kStages[Below(6)];
      script->Fail("r" + std::to_string(next_ + i), stage, absl::AbortedError("lost"),
                   stage == Stage::kStep ? Below(3) : 0);
    }
  }

  void Check(const std::string& id, Asked* asked) {
    if (asked->reader == nullptr) return;
    const std::vector<RequestEvent> events = asked->reader->Rest();
    asked->reader.reset();
    if (const auto* failed = std::get_if<FailedEvent>(&events.back())) {
      const bool gone = absl::IsUnavailable(failed->status) || absl::IsInternal(failed->status);
      const bool cancelled = absl::IsCancelled(failed->status) && asked->cancelled;
      EXPECT_TRUE(gone || cancelled || absl::IsResourceExhausted(failed->status)) << id << " " << failed->status;
      return;
    }
    const std::vector<ImageEvent> images = EventsOf<ImageEvent>(events);
    EXPECT_EQ(images.size(), asked->request.images.size()) << id;
    std::set<int> indices;
    for (const ImageEvent& image : images) {
      indices.insert(image.image_index);
      const ImageSpec& spec = asked->request.images[image.image_index];
      EXPECT_EQ(image.image.bytes, PictureText(spec.width, spec.height, FakeColour(spec))) << id;
      if (spec.deterministic) CheckType(id, spec, image.provenance.device);
    }
    EXPECT_EQ(indices.size(), images.size()) << id;
  }

  // All its steps were made on devices of the type that decoded it, alone where a batch would change bits.
  void CheckType(const std::string& id, const ImageSpec& spec, const std::string& device) {
    std::set<int> steps;
    for (const auto& [name, script] : scripts_) {
      if (name.substr(0, 3) != device.substr(0, 3)) continue;
      for (const FakeStep& step : script->steps()) {
        for (const FakeStep::Entry& image : step.images) {
          if (image.prompt != id || image.seed != spec.seed) continue;
          steps.insert(image.step);
          EXPECT_TRUE(step.images.size() == 1 || name == "cpu") << id;
        }
      }
    }
    EXPECT_EQ(steps.size(), static_cast<size_t>(spec.steps)) << id << " on " << device;
  }

  std::mt19937 random_;
  std::map<std::string, std::shared_ptr<FakeScript>> scripts_;
  std::map<std::string, Asked> asked_;
  int next_ = 0, lost_ = 0, loads_ = 0, removals_ = 0;
  std::atomic<int> loads_told_ = 0, removals_told_ = 0;
  std::unique_ptr<SchedulerHarness> harness_;
};

TEST(SchedulerRandomTest, WhateverHappensEveryRequestEndsOnce) {
  for (int seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    Trace(seed).Run();
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace fresco
