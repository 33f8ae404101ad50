// Devices that hang, and devices whose context is lost: what becomes of their images, of the others and of the process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/scheduler/retry.h"
#include "server/scheduler/scheduler.h"
#include "tests/support/forwarding_engine.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;
using Stage = FakeScript::Stage;

const absl::Duration kFloor = WatchdogOptions().floor;

absl::Status ContextLost() {
  return absl::AbortedError("the device's context is lost");
}

// The device has the request's only image, and its step gate is closed before the image's first step.
std::unique_ptr<EventReader> SubmitTo(SchedulerHarness* harness, FakeScript* script, GenerationRequest request) {
  script->step_gate()->Close();
  auto reader = harness->Submit(std::move(request));
  script->step_gate()->AwaitBlocked();
  return reader;
}

// Lets it make steps until it stands before step `step`.
void StepTo(FakeScript* script, int step) {
  script->step_gate()->Allow(step);
  script->step_gate()->AwaitArrivals(step + 1);
}

void LetItHang(SchedulerHarness* harness, absl::Duration duration = kFloor) {
  harness->clock.AwaitWaiter(harness->clock.Now() + duration);
  harness->clock.Advance(duration);
}

TEST(DeviceLossTest, TheImagesOfADeviceThatHangsGoOnElsewhereFromTheirLastStep) {
  SchedulerHarness harness;
  FakeScript* a = harness.AddModel("fake", "a");
  auto image = SubmitTo(&harness, a, harness.Request("x", 5));
  FakeScript* b = harness.AddModel("fake", "b");
  StepTo(a, 3);
  LetItHang(&harness);
  const std::vector<RequestEvent> events = image->Rest();
  EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
  EXPECT_THAT(EventsOf<ImageEvent>(events), SizeIs(1));
  EXPECT_THAT(StepTexts(*b), ElementsAre("x3", "x4"));
  EXPECT_THAT(harness.observer.counts(), ElementsAre(Pair("fake moved from a", 1), Pair("lost a", 1)));
  // What it answers at last is nobody's.
  a->step_gate()->Open();
  a->step_gate()->AwaitPassed(4);
  EXPECT_TRUE(harness.Submit(harness.Request("y", 2))->Result().ok());
  EXPECT_THAT(StepTexts(*a), ElementsAre("x0", "x1", "x2", "x3"));
  EXPECT_EQ(harness.observer.images(), 2);
}

TEST(DeviceLossTest, TheFirstCallMayTakeLong) {
  SchedulerHarness harness;
  FakeScript* a = harness.AddModel("fake", "a");
  auto image = SubmitTo(&harness, a, harness.Request("x", 5));
  harness.AddModel("fake", "b");
  LetItHang(&harness);
  EXPECT_THAT(harness.observer.counts(), IsEmpty());
  const absl::Duration left = WatchdogOptions().first - kFloor;
  for (absl::Duration passed; passed < left; passed += kFloor) LetItHang(&harness);
  EXPECT_TRUE(image->Result().ok());  // drawn by the other
  harness.scheduler.reset();          // which may be before the observer has heard of all
  EXPECT_THAT(harness.observer.counts(), ElementsAre(Pair("fake moved from a", 1), Pair("lost a", 1)));
}

TEST(DeviceLossTest, ACallThatFailedSaysNothingOfHowLongOneTakes) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->Fail("bad", Stage::kStep, absl::DataLossError("not finite"));
  EXPECT_FALSE(harness.Submit(harness.Request("bad"))->Result().ok());
  auto image = SubmitTo(&harness, script, harness.Request("x", 2));  // no step has come to its end before
  LetItHang(&harness);
  harness.clock.AwaitWaiter(harness.clock.Now() + kFloor);
  EXPECT_THAT(harness.observer.counts(), IsEmpty());
  script->step_gate()->Open();
  EXPECT_TRUE(image->Result().ok());
}

// As long as images of known texts took says nothing of fewer that bring new ones.
TEST(DeviceLossTest, TextsThatAreInTheCacheSayNothingOfHowLongOthersTake) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  EXPECT_TRUE(harness.Submit(harness.Request("x"))->Result().ok());
  EXPECT_TRUE(harness.Submit(harness.Request("x", 2, 4))->Result().ok());
  script->prepare_gate()->Close();
  GenerationRequest request = harness.Request("y", 2, 3);
  request.images[0].prompt = "one that is new";
  request.images[1].prompt = "another";
  auto images = harness.Submit(request);
  script->prepare_gate()->AwaitBlocked();
  LetItHang(&harness);
  harness.clock.AwaitWaiter(harness.clock.Now() + kFloor);
  EXPECT_THAT(harness.observer.counts(), IsEmpty());
  script->prepare_gate()->Open();
  EXPECT_TRUE(images->Result().ok());
}

// Before a device answers how much memory it has, and has had.
struct AskedGates {
  Gate peak, memory, stats;
};

// A driver that hangs when it is asked for memory, as it does in anything else.
class AskedEngine final : public ForwardingEngine {
 public:
  AskedEngine(std::unique_ptr<Engine> engine, std::shared_ptr<AskedGates> gates)
      : ForwardingEngine(std::move(engine)), gates_(std::move(gates)) {}
  int64_t TakePeakBytes() override {
    gates_->peak.Pass();
    return ForwardingEngine::TakePeakBytes();
  }
  DeviceMemory MemoryOfDevice() override {
    gates_->memory.Pass();
    return ForwardingEngine::MemoryOfDevice();
  }
  EngineStats stats() const override {
    gates_->stats.Pass();
    return ForwardingEngine::stats();
  }

 private:
  const std::shared_ptr<AskedGates> gates_;  // a thread that hangs outlives the test
};

class AskedTest : public ::testing::Test {
 protected:
  AskedTest() {
    harness_.scripts["a"] = a_;
    const absl::Status loaded = harness_.Load("fake", "a", [this]() -> absl::StatusOr<std::unique_ptr<Engine>> {
      return std::make_unique<AskedEngine>(
          std::make_unique<FakeEngine>(FakeModelInfo("fake", "a"), a_, &harness_.clock), gates_);
    });
    EXPECT_TRUE(loaded.ok());
    a_->Fail("large", Stage::kStep, absl::ResourceExhaustedError("no memory"));
    EXPECT_FALSE(harness_.Submit(harness_.Sized(harness_.Request("large"), 64))->Result().ok());
    EXPECT_TRUE(harness_.Submit(harness_.Request("small"))->Result().ok());  // by now every call has come back once
  }
  ~AskedTest() override {
    harness_.scheduler.reset();
    gates_->peak.Open();
    gates_->memory.Open();
    gates_->stats.Open();
  }

  const std::shared_ptr<AskedGates> gates_ = std::make_shared<AskedGates>();
  const std::shared_ptr<FakeScript> a_ = std::make_shared<FakeScript>();
  SchedulerHarness harness_;
};

TEST_F(AskedTest, ADeviceThatHangsWhenAskedForItsPeakIsLost) {
  gates_->peak.Close();
  auto image = harness_.Submit(harness_.Request("x"));
  gates_->peak.AwaitBlocked();
  FakeScript* b = harness_.AddModel("fake", "b");
  LetItHang(&harness_);
  EXPECT_TRUE(image->Result().ok());
  EXPECT_THAT(StepTexts(*b), ElementsAre("x0", "x1", "x2", "x3"));
}

// The picture is there, and not yet handed on.
TEST_F(AskedTest, ADeviceThatHangsOnceAPictureIsDecodedIsLost) {
  a_->finish_gate()->Close();
  auto image = harness_.Submit(harness_.Request("x", 1));
  a_->finish_gate()->AwaitBlocked();
  harness_.AddModel("fake", "b");
  gates_->peak.Close();
  a_->finish_gate()->Open();
  gates_->peak.AwaitBlocked();
  LetItHang(&harness_);
  const std::vector<RequestEvent> events = image->Rest();
  EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
  ASSERT_THAT(EventsOf<ImageEvent>(events), SizeIs(1));
  EXPECT_EQ(EventsOf<ImageEvent>(events).front().provenance.device, "b");
}

TEST_F(AskedTest, ADeviceThatHangsWhenAskedWhatItHoldsBeforeADecodeIsLost) {
  gates_->stats.Close();
  auto image = harness_.Submit(harness_.Request("x", 1));
  gates_->stats.AwaitBlocked();
  harness_.AddModel("fake", "b");
  LetItHang(&harness_);
  EXPECT_TRUE(image->Result().ok());
}

TEST_F(AskedTest, ADeviceThatHangsWhenAskedWhoHoldsItsMemoryIsLost) {
  gates_->memory.Close();
  auto image = harness_.Submit(harness_.Sized(harness_.Request("large"), 32));
  gates_->memory.AwaitBlocked();
  harness_.AddModel("fake", "b");
  LetItHang(&harness_);
  EXPECT_TRUE(image->Result().ok());  // by the other, which has the memory
}

// By a load, as what its device has is what requests are admitted by.
TEST_F(AskedTest, ADeviceThatHangsWhenAModelIsLoadedAndItIsAskedForItsMemoryIsLost) {
  harness_.AddModel("fake", "b");
  gates_->memory.Close();
  absl::Status heard;
  std::thread load([&] {
    heard = harness_.Load("more", "a", [this]() -> absl::StatusOr<std::unique_ptr<Engine>> {
      return std::make_unique<AskedEngine>(
          std::make_unique<FakeEngine>(FakeModelInfo("more", "a"), a_, &harness_.clock), gates_);
    });
  });
  gates_->memory.AwaitBlocked();
  LetItHang(&harness_);
  load.join();
  EXPECT_EQ(heard.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(harness_.Submit(harness_.Request("x"))->Result().ok());  // by the other
}

class StuckEngine final : public ForwardingEngine {
 public:
  StuckEngine(std::unique_ptr<Engine> engine, std::shared_ptr<Gate> gate)
      : ForwardingEngine(std::move(engine)), gate_(std::move(gate)) {}
  ~StuckEngine() override { gate_->Pass(); }
  absl::Status WarmUp() override { return absl::InternalError("it cannot draw"); }

 private:
  const std::shared_ptr<Gate> gate_;  // a thread that hangs outlives the test
};

TEST(DeviceLossTest, ADeviceThatHangsWhenItFreesAModelThatCannotDrawIsLost) {
  SchedulerOptions options;
  options.watchdog.first = kFloor;
  SchedulerHarness harness(options);
  const auto gate = std::make_shared<Gate>();
  gate->Close();
  Gate told;
  harness.scheduler->AddModel(
      "fake", "a",
      [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
        return std::make_unique<StuckEngine>(
            std::make_unique<FakeEngine>(FakeModelInfo("fake", "a"), std::make_shared<FakeScript>(), nullptr), gate);
      },
      [&](const absl::StatusOr<EngineView>& engine) {
        EXPECT_EQ(engine.status().code(), absl::StatusCode::kUnavailable);
        told.Pass();
      });
  gate->AwaitBlocked();
  LetItHang(&harness);
  told.AwaitPassed(1);
  gate->Open();
}

class LostInStageTest : public ::testing::TestWithParam<Stage> {};

TEST_P(LostInStageTest, TheImageIsDrawnElsewhere) {
  SchedulerHarness harness;
  FakeScript* a = harness.AddModel("fake", "a");
  a->Fail("x", GetParam(), ContextLost(), GetParam() == Stage::kStep ? 2 : 0);
  a->prepare_gate()->Close();
  GenerationRequest request = harness.Request("x", 4);
  request.preview_every = 3;
  auto image = harness.Submit(request);
  a->prepare_gate()->AwaitBlocked();
  FakeScript* b = harness.AddModel("fake", "b");
  a->prepare_gate()->Open();
  const std::vector<RequestEvent> events = image->Rest();
  EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
  ASSERT_THAT(EventsOf<ImageEvent>(events), SizeIs(1));
  EXPECT_EQ(EventsOf<ImageEvent>(events).front().provenance.device, "b");
  harness.Settle();
  EXPECT_EQ(b->live_jobs(), 0);
  const SchedulerSnapshot snapshot = harness.scheduler->Snapshot();
  EXPECT_EQ(snapshot.devices[0].lost, "the device's context is lost");
  EXPECT_THAT(snapshot.devices[0].models, IsEmpty());
  EXPECT_EQ(snapshot.devices[1].lost, "");
}

INSTANTIATE_TEST_SUITE_P(Stages, LostInStageTest,
                         ::testing::Values(Stage::kPrepare, Stage::kStep, Stage::kSnapshot, Stage::kPreview,
                                           Stage::kFinish));

TEST(DeviceLossTest, AContextThatALoadHasLostIsTheDevices) {
  SchedulerHarness harness;
  harness.AddModel("fake", "a");
  FakeScript* b = harness.AddModel("fake", "b");
  EXPECT_EQ(harness.Load("more", "a", [] { return ContextLost(); }).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(harness.scheduler->Snapshot().devices[0].lost, "the device's context is lost");
  EXPECT_TRUE(harness.Submit(harness.Request("x"))->Result().ok());
  EXPECT_THAT(StepTexts(*b), SizeIs(4));
}

TEST(DeviceLossTest, AWholeBatchAndWhatIsPausedMovesWithItsDevice) {
  SchedulerOptions options;
  options.max_batch = 2;
  SchedulerHarness harness(options);
  FakeScript* a = harness.AddModel("fake", "a");
  a->Fail("x", Stage::kStep, ContextLost(), 2);
  auto x = SubmitTo(&harness, a, harness.Request("x", 4, 2));
  auto other = harness.Submit(harness.Sized(harness.Request("other", 4, 2), 32));
  FakeScript* b = harness.AddModel("fake", "b");
  a->step_gate()->Open();
  EXPECT_TRUE(x->Result().ok());
  EXPECT_TRUE(other->Result().ok());
  harness.Settle();
  EXPECT_EQ(harness.observer.images(), 4);
  EXPECT_EQ(b->live_jobs(), 0);
}

TEST(DeviceLossTest, WithoutAnotherDeviceRequestsFailAndAreToldToComeBack) {
  std::vector<DeviceLoss> losses;
  SchedulerOptions options;
  options.max_batch = 1;
  options.on_device_lost = [&](const DeviceLoss& loss) { losses.push_back(loss); };
  SchedulerHarness harness(options);
  FakeScript* a = harness.AddModel("fake", "a");
  harness.AddModel("other", "b");
  a->Fail("running", Stage::kStep, ContextLost(), 1);
  auto running = SubmitTo(&harness, a, harness.Request("running"));
  auto waiting = harness.Submit(harness.Request("waiting"));
  a->step_gate()->Open();
  for (EventReader* reader : {running.get(), waiting.get()}) {
    const absl::Status status = reader->Result();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()), HasSubstr("the device a is lost (the device's context is lost)"));
    EXPECT_TRUE(RetryAfter(status).has_value());
  }
  const absl::Status refused = harness.scheduler->Submit(harness.Request("late")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("the device a is lost"));
  GenerationRequest other = harness.Request("other");
  other.model = "other";
  EXPECT_TRUE(harness.Submit(other)->Result().ok());
  ASSERT_THAT(losses, SizeIs(1));
  EXPECT_EQ(losses[0].device, "a");
  EXPECT_THAT(losses[0].models, ElementsAre("fake"));
  // Nothing can be loaded there any more.
  EXPECT_EQ(harness.Load("more", "a", [] { return absl::InternalError("not called"); }).code(),
            absl::StatusCode::kUnavailable);
}

TEST(DeviceLossTest, AnImageThatCostsEveryDeviceIsNotTriedForEver) {
  SchedulerHarness harness;
  std::vector<FakeScript*> scripts;
  for (const char* device : {"a", "b", "c", "d"}) {
    scripts.push_back(harness.AddModel("fake", device));
    scripts.back()->Fail("poison", Stage::kStep, ContextLost(), 1);
  }
  const absl::Status status = harness.Submit(harness.Request("poison"))->Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("3 devices were lost"));
  EXPECT_FALSE(RetryAfter(status).has_value());
  EXPECT_TRUE(harness.Submit(harness.Request("good"))->Result().ok());  // by the one that is left
}

TEST(DeviceLossTest, ADeviceLostWhileItTakesUpAnImageIsNoEnd) {
  SchedulerHarness harness;
  FakeScript* a = harness.AddModel("fake", "a");
  a->Fail("x", Stage::kStep, ContextLost(), 2);
  auto image = SubmitTo(&harness, a, harness.Request("x", 4));
  harness.AddModel("fake", "b")->Fail("x", Stage::kResume, ContextLost());
  harness.AddModel("fake", "c")->Fail("x", Stage::kResume, ContextLost());
  a->step_gate()->Open();
  EXPECT_TRUE(image->Result().ok());
  EXPECT_EQ(harness.observer.images(), 1);
}

TEST(DeviceLossTest, OfManyRequestsNoneIsLostAndNoneDrawnTwice) {
  SchedulerOptions options;
  options.max_batch = 4;
  SchedulerHarness harness(options);
  const std::map<std::string, std::pair<const char*, int>> fatal = {{"a", {"r3", 2}}, {"b", {"r11", 1}}};
  for (const char* device : {"a", "b", "c"}) {
    FakeScript* script = harness.AddModel("fake", device);
    const auto found = fatal.find(device);
    if (found != fatal.end()) script->Fail(found->second.first, Stage::kStep, ContextLost(), found->second.second);
  }
  std::vector<std::unique_ptr<EventReader>> readers;
  for (int i = 0; i < 40; ++i) {
    const std::string id = absl::StrCat("r", i);
    readers.push_back(harness.Submit(harness.Sized(harness.Request(id, 2 + i % 3, 1 + i % 2), 16 * (1 + i % 2))));
  }
  for (int i = 0; i < 40; ++i) {
    const std::vector<RequestEvent> events = readers[i]->Rest();
    EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back())) << i;
    EXPECT_THAT(EventsOf<ImageEvent>(events), SizeIs(1 + i % 2)) << i;
  }
  harness.Settle();
  EXPECT_EQ(harness.observer.images(), 60);
  harness.scheduler.reset();  // with which goes what the lost devices had, some of it from the one that is left
  EXPECT_EQ(harness.scripts["c"]->live_jobs(), 0);
}

TEST(DeviceLossTest, TheSchedulerGoesWithoutAThreadThatHangs) {
  SchedulerHarness harness;
  Gate gone;  // passed when the engine goes
  const auto script = std::make_shared<FakeScript>();
  const auto loader = [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
    const std::shared_ptr<FakeScript> last(script.get(), [script, &gone](FakeScript*) { gone.Pass(); });
    return std::make_unique<FakeEngine>(FakeModelInfo(), last, nullptr);
  };
  ASSERT_TRUE(harness.Load("fake", "cpu", loader).ok());
  auto image = SubmitTo(&harness, script.get(), harness.Request("x", 3));
  StepTo(script.get(), 1);
  LetItHang(&harness);
  EXPECT_EQ(image->Result().code(), absl::StatusCode::kUnavailable);
  harness.scheduler.reset();  // returns, though the thread is still there
  EXPECT_EQ(script->live_jobs(), 1);
  script->step_gate()->Open();
  gone.AwaitPassed(1);
  EXPECT_EQ(script->live_jobs(), 0);
}

TEST(DeviceLossTest, AHangIsFoundWhileTheSchedulerStops) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  auto image = SubmitTo(&harness, script, harness.Request("x", 3));
  StepTo(script, 1);
  harness.scheduler->Stop();
  EXPECT_EQ(image->Result().code(), absl::StatusCode::kUnavailable);
  LetItHang(&harness);
  harness.scheduler.reset();  // without waiting for the thread
  EXPECT_THAT(StepTexts(*script), ElementsAre("x0", "x1"));
}

}  // namespace
}  // namespace fresco
