// Models that come and go while others are served.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "server/scheduler/retry.h"
#include "tests/support/forwarding_engine.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Says on which thread it is destroyed, and that it has been.
struct Ends {
  Gate gate;
  Gate warm_up;  // before it
  std::thread::id destroyed_on;
  std::thread::id stepped_on;
};

class EndingEngine final : public ForwardingEngine {
 public:
  EndingEngine(std::unique_ptr<Engine> engine, std::shared_ptr<Ends> ends)
      : ForwardingEngine(std::move(engine)), ends_(std::move(ends)) {}
  ~EndingEngine() override {
    ends_->destroyed_on = std::this_thread::get_id();
    ends_->gate.Pass();
  }
  absl::Status WarmUp() override {
    ends_->warm_up.Pass();
    return ForwardingEngine::WarmUp();
  }
  std::vector<absl::Status> Step(absl::Span<ImageJob* const> batch) override {
    ends_->stepped_on = std::this_thread::get_id();
    return ForwardingEngine::Step(batch);
  }

 private:
  const std::shared_ptr<Ends> ends_;
};

class ModelRemovalTest : public ::testing::Test {
 protected:
  // A removal that was taken, and its end.
  struct Removed {
    Gate gate;
    absl::Status status = absl::UnknownError("not yet");
    void Await() { gate.AwaitPassed(1); }
  };

  std::shared_ptr<Removed> Remove(const std::string& model = "fake", const std::string& device = "cpu",
                                  Removal when = Removal::kWhenDone) {
    auto removed = std::make_shared<Removed>();
    const absl::Status taken =
        harness_.scheduler->RemoveModel(model, device, when, [removed](const absl::Status& status) {
          removed->status = absl::Status(status.code(), status.message());
          removed->gate.Pass();
        });
    EXPECT_TRUE(taken.ok()) << taken;
    return removed;
  }

  absl::Status RemovalError(const std::string& model, const std::string& device, Removal when) {
    return harness_.scheduler->RemoveModel(model, device, when, [](const absl::Status&) { FAIL() << "told twice"; });
  }

  std::vector<std::string> ModelsOf(const std::string& device) {
    for (const DeviceSnapshot& snapshot : harness_.scheduler->Snapshot().devices) {
      if (snapshot.device == device) return snapshot.models;
    }
    return {};
  }

  Scheduler::EngineLoader EndingLoader(const std::string& model, const std::shared_ptr<Ends>& ends) {
    return [this, model, ends]() -> absl::StatusOr<std::unique_ptr<Engine>> {
      return std::make_unique<EndingEngine>(
          std::make_unique<FakeEngine>(FakeModelInfo(model, "cpu"), std::make_shared<FakeScript>(), &harness_.clock),
          ends);
    };
  }

  // Returns when it is loaded.
  EngineView LoadEnding(const std::string& model, const std::shared_ptr<Ends>& ends) {
    EngineView view;
    const auto loaded = std::make_shared<Gate>();  // whose Pass may outlast the wait for it
    harness_.scheduler->AddModel(model, "cpu", EndingLoader(model, ends),
                                 [&view, loaded](const absl::StatusOr<EngineView>& engine) {
                                   view = *engine;
                                   loaded->Pass();
                                 });
    loaded->AwaitPassed(1);
    return view;
  }

  static GenerationRequest For(const std::string& model, GenerationRequest request) {
    request.model = model;
    return request;
  }

  SchedulerHarness harness_;
};

TEST_F(ModelRemovalTest, AnIdleModelGoesAndComesBack) {
  harness_.AddModel();
  EXPECT_TRUE(harness_.Submit(harness_.Request("a"))->Result().ok());
  const auto removed = Remove();
  removed->Await();
  EXPECT_TRUE(removed->status.ok()) << removed->status;
  EXPECT_THAT(ModelsOf("cpu"), IsEmpty());
  EXPECT_EQ(harness_.scheduler->Submit(harness_.Request("b")).status().code(), absl::StatusCode::kUnavailable);
  harness_.AddModel();
  EXPECT_THAT(ModelsOf("cpu"), ElementsAre("fake"));
  EXPECT_TRUE(harness_.Submit(harness_.Request("c"))->Result().ok());
}

TEST_F(ModelRemovalTest, WhatIsNotThereCannotGo) {
  EXPECT_EQ(RemovalError("fake", "cpu", Removal::kWhenDone).code(), absl::StatusCode::kNotFound);
  harness_.AddModel();
  EXPECT_EQ(RemovalError("other", "cpu", Removal::kWhenDone).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(RemovalError("fake", "cuda:0", Removal::kWhenDone).code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelRemovalTest, WhatHasBegunIsFinishedWhatWaitsFails) {
  FakeScript* script = harness_.AddModel();
  script->step_gate()->Close();
  auto running = harness_.Submit(harness_.Request("r", 2, 3));
  script->step_gate()->AwaitBlocked();
  auto waiting = harness_.Submit(harness_.Sized(harness_.Request("w"), 32));
  const auto removed = Remove();
  const absl::Status failed = waiting->Result();
  EXPECT_EQ(failed.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(failed.message()), HasSubstr("'fake' was unloaded"));
  EXPECT_EQ(harness_.scheduler->Submit(harness_.Request("n")).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(RemovalError("fake", "cpu", Removal::kWhenDone).code(), absl::StatusCode::kNotFound);
  script->step_gate()->Open();
  EXPECT_TRUE(running->Result().ok());
  removed->Await();
  EXPECT_TRUE(removed->status.ok());
  EXPECT_EQ(script->live_jobs(), 0);
}

TEST_F(ModelRemovalTest, ImagesOfABegunRequestThatWaitAreDrawnToo) {
  SchedulerOptions options;
  options.max_batch = options.max_resident = 1;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("r", 1, 3));
  script->step_gate()->AwaitBlocked();
  Gate removed;
  ASSERT_TRUE(
      harness.scheduler->RemoveModel("fake", "cpu", Removal::kWhenDone, [&](const absl::Status&) { removed.Pass(); })
          .ok());
  script->step_gate()->Open();
  const std::vector<RequestEvent> events = running->Rest();
  EXPECT_EQ(EventsOf<ImageEvent>(events).size(), 3u);
  EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
  removed.AwaitPassed(1);
}

TEST_F(ModelRemovalTest, ACancelledRequestDoesNotHoldUpItsModel) {
  SchedulerOptions options;
  options.max_batch = options.max_resident = 1;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("r", 1, 3));
  script->step_gate()->AwaitBlocked();
  Gate removed;
  ASSERT_TRUE(
      harness.scheduler->RemoveModel("fake", "cpu", Removal::kWhenDone, [&](const absl::Status&) { removed.Pass(); })
          .ok());
  ASSERT_TRUE(harness.scheduler->Cancel("", "r", absl::OkStatus()).ok());
  script->step_gate()->Open();
  EXPECT_EQ(running->Result().code(), absl::StatusCode::kCancelled);
  removed.AwaitPassed(1);
}

TEST_F(ModelRemovalTest, WhatRunsMovesToTheOtherReplicaAtAStepBoundary) {
  FakeScript* one = harness_.AddModel("fake", "cuda:0");
  one->step_gate()->Close();
  const GenerationRequest request = harness_.Request("m", 3);
  auto moved = harness_.Submit(request);
  one->step_gate()->AwaitBlocked();
  FakeScript* two = harness_.AddModel("fake", "cuda:1");
  const auto removed = Remove("fake", "cuda:0");
  one->step_gate()->Open();
  const std::vector<RequestEvent> events = moved->Rest();
  ASSERT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
  EXPECT_THAT(StepTexts(*one), ElementsAre("m0"));
  EXPECT_THAT(StepTexts(*two), ElementsAre("m1", "m2"));
  const auto images = EventsOf<ImageEvent>(events);
  ASSERT_EQ(images.size(), 1u);
  EXPECT_EQ(images[0].image.bytes, PictureText(16, 16, FakeColour(request.images[0])));
  EXPECT_EQ(images[0].provenance.device, "cuda:1");
  removed->Await();
  EXPECT_TRUE(removed->status.ok());
  EXPECT_TRUE(harness_.Submit(harness_.Request("n"))->Result().ok());
}

TEST_F(ModelRemovalTest, OnlyAnIdleModelGoesWhereThatIsAsked) {
  FakeScript* script = harness_.AddModel();
  script->step_gate()->Close();
  auto running = harness_.Submit(harness_.Request("r"));
  script->step_gate()->AwaitBlocked();
  EXPECT_EQ(RemovalError("fake", "cpu", Removal::kIfIdle).code(), absl::StatusCode::kFailedPrecondition);
  script->step_gate()->Open();
  EXPECT_TRUE(running->Result().ok());
  harness_.Submit(harness_.Request("s"))->Result().IgnoreError();  // still served
  // The last event comes a moment after the request has let go.
  const auto removed = Remove("fake", "cpu", Removal::kIfIdle);
  removed->Await();
  EXPECT_TRUE(removed->status.ok());
}

TEST_F(ModelRemovalTest, TheOtherModelOfADeviceIsServedOn) {
  FakeScript* script = harness_.AddModel("fake");
  harness_.AddModel("other");
  const auto removed = Remove("fake");
  removed->Await();
  EXPECT_THAT(ModelsOf("cpu"), ElementsAre("other"));
  EXPECT_TRUE(harness_.Submit(For("other", harness_.Request("o")))->Result().ok());
  harness_.AddModel("third");  // in the slot that is free
  EXPECT_TRUE(harness_.Submit(For("other", harness_.Request("p", 1)))->Result().ok());
  auto third = harness_.Submit(For("third", harness_.Request("t", 1)));
  EXPECT_EQ(third->Await<ImageEvent>().provenance.model, "third");
  EXPECT_THAT(StepTexts(*script), Contains("t0"));
}

TEST_F(ModelRemovalTest, AnEngineIsDestroyedOnItsDevicesThreadWhoeverLookedLast) {
  const auto ends = std::make_shared<Ends>();
  EngineView view = LoadEnding("fake", ends);
  EXPECT_TRUE(harness_.Submit(harness_.Request("a"))->Result().ok());
  const auto removed = Remove();
  EXPECT_TRUE(view->Validate(harness_.Request("b").images[0]).ok());  // whoever looks may go on looking
  view.reset();
  removed->Await();
  EXPECT_TRUE(removed->status.ok());
  ends->gate.AwaitPassed(1);
  EXPECT_EQ(ends->destroyed_on, ends->stepped_on);
  EXPECT_NE(ends->destroyed_on, std::this_thread::get_id());
}

TEST_F(ModelRemovalTest, ASlowLoadDoesNotStopTheOtherModelsImages) {
  harness_.AddModel("fake");
  Gate loading;
  loading.Close();
  Gate loaded;
  const auto script = std::make_shared<FakeScript>();
  harness_.scheduler->AddModel(
      "slow", "cpu",
      [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
        loading.Pass();
        return std::make_unique<FakeEngine>(FakeModelInfo("slow", "cpu"), script, &harness_.clock);
      },
      [&](const absl::StatusOr<EngineView>&) { loaded.Pass(); });
  loading.AwaitBlocked();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(harness_.Submit(harness_.Request("r" + std::to_string(i)))->Result().ok());
  EXPECT_THAT(ModelsOf("cpu"), ElementsAre("fake"));
  loading.Open();
  loaded.AwaitPassed(1);
  EXPECT_TRUE(harness_.Submit(For("slow", harness_.Request("s")))->Result().ok());
}

TEST_F(ModelRemovalTest, WhatMemoryAStepNeedsIsNotLearnedWhileAnEngineLoads) {
  harness_.AddModel("fake");
  Gate loading;
  loading.Close();
  Gate loaded;
  harness_.scheduler->AddModel(
      "slow", "cpu",
      [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
        loading.Pass();
        return absl::NotFoundError("no such file");
      },
      [&](const absl::StatusOr<EngineView>&) { loaded.Pass(); });
  loading.AwaitBlocked();
  EXPECT_TRUE(harness_.Submit(harness_.Request("a"))->Result().ok());
  CostModel costs = harness_.scheduler->Costs();
  EXPECT_EQ(costs.ActivationBytes(costs.Curve("fake", 1), 2), 0);
  loading.Open();
  loaded.AwaitPassed(1);
}

TEST_F(ModelRemovalTest, TheSchedulersEndAnswersLoadsAndRemovals) {
  FakeScript* script = harness_.AddModel();
  script->step_gate()->Close();
  auto running = harness_.Submit(harness_.Request("r"));
  script->step_gate()->AwaitBlocked();
  const auto removed = Remove();
  Gate loading, answered;
  loading.Close();
  std::atomic<int> cancelled = 0;
  const auto loader = [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
    loading.Pass();
    return absl::NotFoundError("no such file");
  };
  for (const char* model : {"one", "two"}) {
    harness_.scheduler->AddModel(model, "cpu", loader, [&](const absl::StatusOr<EngineView>& engine) {
      cancelled += absl::IsCancelled(engine.status()) ? 1 : 0;
      answered.Pass();
    });
  }
  loading.AwaitBlocked();
  harness_.scheduler->Stop();
  std::thread end([&] { harness_.scheduler.reset(); });
  loading.Open();
  script->step_gate()->Open();
  end.join();
  EXPECT_EQ(running->Result().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(removed->status.code(), absl::StatusCode::kCancelled);
  answered.AwaitPassed(2);
  EXPECT_EQ(cancelled, 2);
}

// Lets calls that are under way take so long.
void LetPass(SchedulerHarness* harness, absl::Duration duration) {
  const absl::Duration floor = WatchdogOptions().floor;
  for (absl::Duration passed; passed < duration; passed += floor) {
    harness->clock.AwaitWaiter(harness->clock.Now() + floor);
    harness->clock.Advance(floor);
  }
}

TEST_F(ModelRemovalTest, AnEngineOfADeviceThatHangsIsLeftToItsThread) {
  const auto ends = std::make_shared<Ends>();
  EngineView view = LoadEnding("leaves", ends);
  FakeScript* hangs = harness_.AddModel("fake", "cpu");
  EXPECT_TRUE(harness_.Submit(For("leaves", harness_.Request("a")))->Result().ok());
  const auto removed = Remove("leaves");
  EXPECT_TRUE(harness_.Submit(harness_.Request("b"))->Result().ok());
  hangs->step_gate()->Close();
  auto running = harness_.Submit(harness_.Request("r"));
  hangs->step_gate()->AwaitBlocked();
  LetPass(&harness_, WatchdogOptions().floor);
  EXPECT_EQ(running->Result().code(), absl::StatusCode::kUnavailable);
  removed->Await();
  EXPECT_EQ(removed->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(removed->status.message()), HasSubstr("the device cpu is lost"));
  EXPECT_EQ(RemovalError("fake", "cpu", Removal::kWhenDone).code(), absl::StatusCode::kUnavailable);
  view.reset();  // the last look
  EXPECT_EQ(ends->destroyed_on, std::thread::id());
  harness_.scheduler.reset();
  EXPECT_EQ(ends->destroyed_on, std::thread::id());
  hangs->step_gate()->Open();
  ends->gate.AwaitPassed(1);
  EXPECT_EQ(ends->destroyed_on, ends->stepped_on);
}

TEST_F(ModelRemovalTest, ALoadThatHangsInItsWarmUpIsAnsweredOnceAndItsEngineLeftToItsThread) {
  const auto ends = std::make_shared<Ends>();
  ends->warm_up.Close();
  std::vector<absl::Status> answers;
  Gate answered;
  for (const char* model : {"one", "two"}) {
    harness_.scheduler->AddModel(model, "cpu", EndingLoader(model, ends),
                                 [&](const absl::StatusOr<EngineView>& engine) {
                                   answers.emplace_back(engine.status().code(), engine.status().message());
                                   answered.Pass();
                                 });
  }
  ends->warm_up.AwaitBlocked();
  LetPass(&harness_, WatchdogOptions().first);
  answered.AwaitPassed(2);
  for (const absl::Status& answer : answers) EXPECT_EQ(answer.code(), absl::StatusCode::kUnavailable) << answer;
  harness_.scheduler.reset();
  EXPECT_EQ(answers.size(), 2u);
  EXPECT_EQ(ends->destroyed_on, std::thread::id());
  ends->warm_up.Open();
  ends->gate.AwaitPassed(1);
  EXPECT_NE(ends->destroyed_on, std::this_thread::get_id());
}

TEST_F(ModelRemovalTest, ADeviceThatAModelLeavesDoesWhatALostOneHadBegun) {
  SchedulerOptions options;
  options.max_batch = options.max_resident = 1;
  Gate lost;
  options.on_device_lost = [&](const DeviceLoss&) { lost.Pass(); };
  SchedulerHarness harness(options);
  FakeScript* a = harness.AddModel("fake", "a");
  FakeScript* b = harness.AddModel("fake", "b");
  a->Fail("x", FakeScript::Stage::kStep, absl::AbortedError("the device's context is lost"), 1);
  a->step_gate()->Close();
  b->step_gate()->Close();
  auto running = harness.Submit(harness.Request("x", 3, 2));
  a->step_gate()->AwaitBlocked();
  b->step_gate()->AwaitBlocked();
  Gate removed;
  ASSERT_TRUE(
      harness.scheduler->RemoveModel("fake", "b", Removal::kWhenDone, [&](const absl::Status&) { removed.Pass(); })
          .ok());
  a->step_gate()->Open();
  lost.AwaitPassed(1);
  b->step_gate()->Open();
  const std::vector<RequestEvent> events = running->Rest();
  EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
  EXPECT_EQ(EventsOf<ImageEvent>(events).size(), 2u);
  removed.AwaitPassed(1);
}

}  // namespace
}  // namespace fresco
