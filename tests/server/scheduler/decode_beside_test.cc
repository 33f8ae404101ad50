// Pictures that are decoded on a thread of their own, beside the steps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/scheduler/policy/stage_times.h"
#include "server/scheduler/scheduler.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;
using Stage = FakeScript::Stage;

SchedulerOptions Beside() {
  SchedulerOptions options;
  options.decoding = Decoding::kBesideSteps;
  options.costs = FlatCosts(absl::Seconds(1));
  options.watchdog.first = options.watchdog.floor;
  return options;
}

absl::Status ContextLost() {
  return absl::AbortedError("the device's context is lost");
}

void LetItHang(SchedulerHarness* harness) {
  const absl::Duration floor = WatchdogOptions().floor;
  harness->clock.AwaitWaiter(harness->clock.Now() + floor);
  harness->clock.Advance(floor);
}

// With one of 40 steps, whose next waits for the step gate; decodes wait for the finish gate.
class DecodeBesideTest : public ::testing::Test {
 protected:
  void Run(const SchedulerOptions& options = Beside()) {
    harness_ = std::make_unique<SchedulerHarness>(options);
    script_ = harness_->AddModel();
    script_->finish_gate()->Close();
    script_->step_gate()->Close();
    running_ = harness_->Submit(harness_->Request("r", 40));
    script_->step_gate()->AwaitBlocked();
  }

  std::unique_ptr<EventReader> Submit(const std::string& id, int steps = 1, int images = 1) {
    return harness_->Submit(harness_->Request(id, steps, images));
  }

  // All images so far are in the next step; when this returns the one after that waits for the gate.
  void StepTo(int64_t arrivals) {
    script_->step_gate()->Allow(static_cast<int>(arrivals - arrived_));
    arrived_ = arrivals;
    script_->step_gate()->AwaitArrivals(arrivals + 1);
  }

  void Finish() {
    harness_->OpenGates();
    harness_->Settle();
  }

  // A step and a decode have found that memory does not do for both: for a while a decode has the device to itself.
  // Nothing is on it.
  void KeepDecodesApart() {
    Run();
    const auto first = Submit("first", 1, 2);
    StepTo(2);
    script_->finish_gate()->AwaitBlocked();
    script_->SetNoRoomBeside();
    script_->finish_gate()->Allow(1);
    script_->finish_gate()->AwaitArrivals(2);  // the second has begun beside the step that waits for its gate
    script_->finish_gate()->Open();
    script_->step_gate()->Open();
    EXPECT_TRUE(first->Result().ok());
    EXPECT_TRUE(running_->Result().ok());
  }

  std::unique_ptr<SchedulerHarness> harness_;
  FakeScript* script_ = nullptr;
  std::unique_ptr<EventReader> running_;
  int64_t arrived_ = 0;
};

TEST_F(DecodeBesideTest, ADecodeHoldsUpNoStepOfOthers) {
  Run();
  const auto a = Submit("a");
  StepTo(2);  // a's only step is the second
  script_->finish_gate()->AwaitBlocked();
  StepTo(12);
  EXPECT_THAT(StepTexts(*script_), Contains("r11"));
  EXPECT_EQ(harness_->observer.images(), 0);
  script_->finish_gate()->Open();
  EXPECT_TRUE(a->Result().ok());
  Finish();
  EXPECT_TRUE(running_->Result().ok());
  EXPECT_EQ(script_->live_jobs(), 0);
}

// The same, decoded between the steps: the batch waits for it.
TEST_F(DecodeBesideTest, BetweenTheStepsADecodeIsTheNextThing) {
  SchedulerOptions options = Beside();
  options.decoding = Decoding::kBetweenSteps;
  Run(options);
  const auto a = Submit("a");
  script_->step_gate()->Allow(2);
  script_->finish_gate()->AwaitBlocked();
  EXPECT_THAT(StepTexts(*script_), SizeIs(2));
  Finish();
  EXPECT_TRUE(a->Result().ok());
}

TEST(DecodingTest, IsBesideTheStepsOfAGpuUnlessOneSaysOtherwise) {
  EXPECT_FALSE(DecodesBesideSteps(Decoding::kAuto, "cpu"));
  EXPECT_TRUE(DecodesBesideSteps(Decoding::kAuto, "cuda:1"));
  EXPECT_TRUE(DecodesBesideSteps(Decoding::kBesideSteps, "cpu"));
  EXPECT_FALSE(DecodesBesideSteps(Decoding::kBetweenSteps, "cuda:0"));
}

TEST_F(DecodeBesideTest, TheDeviceWaitsForADecoderThatIsFarBehind) {
  SchedulerOptions options = Beside();
  options.max_batch = 2;
  harness_ = std::make_unique<SchedulerHarness>(options);
  script_ = harness_->AddModel();
  script_->finish_gate()->Close();
  std::vector<std::unique_ptr<EventReader>> readers;
  for (int i = 0; i < 30; ++i) readers.push_back(Submit(absl::StrCat("i", i)));
  script_->step_gate()->AwaitPassed(3);
  for (int i = 0; i < 30; ++i) {
    script_->finish_gate()->Allow(1);
    script_->finish_gate()->AwaitPassed(i + 1);
  }
  for (auto& reader : readers) EXPECT_TRUE(reader->Result().ok());
  // Two with the decoder and one that it has just handed on; a batch that waits for it, and the step's.
  for (const FakeStep& step : script_->steps()) EXPECT_LE(step.live_jobs, 2 + 1 + 2 + 2);
}

// What waits does so in the queue, where it counts.
TEST_F(DecodeBesideTest, WhoComesWhileTheDecoderIsFarBehindIsRefused) {
  SchedulerOptions options = Beside();
  options.max_batch = 1;
  options.max_queue = 3;
  harness_ = std::make_unique<SchedulerHarness>(options);
  script_ = harness_->AddModel();
  script_->finish_gate()->Close();
  std::vector<std::unique_ptr<EventReader>> readers;
  for (int i = 0; i < 4; ++i) {  // two for the decoder, and two that wait for it: then none starts
    readers.push_back(Submit(absl::StrCat("drawn", i)));
    script_->step_gate()->AwaitPassed(i + 1);
  }
  for (int i = 0; i < 3; ++i) readers.push_back(Submit(absl::StrCat("waits", i)));
  const absl::Status refused = harness_->scheduler->Submit(harness_->Request("late")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(harness_->scheduler->Snapshot().waiting, 3);
  EXPECT_THAT(script_->steps(), SizeIs(4));
  script_->finish_gate()->Open();
  for (auto& reader : readers) EXPECT_TRUE(reader->Result().ok());
}

TEST_F(DecodeBesideTest, WhatRunsGoesOnWhileTheDecoderIsBehind) {
  SchedulerOptions options = Beside();
  options.max_batch = 2;
  Run(options);
  // With the decoder two, and three that wait for it: more than a batch.
  std::vector<std::unique_ptr<EventReader>> readers;
  for (int i = 0; i < 5; ++i) {
    readers.push_back(Submit(absl::StrCat("i", i)));
    StepTo(i + 2);
  }
  readers.push_back(Submit("new"));
  StepTo(12);
  EXPECT_THAT(StepTexts(*script_), Not(Contains(HasSubstr("new"))));
  EXPECT_THAT(StepTexts(*script_), Contains("r11"));
  Finish();
  for (auto& reader : readers) EXPECT_TRUE(reader->Result().ok());
}

TEST_F(DecodeBesideTest, ThoseThatAreCancelledInTheDecoderLeaveNothing) {
  Run();
  const auto a = Submit("a", 1, 3);
  StepTo(2);
  script_->finish_gate()->AwaitBlocked();
  EXPECT_TRUE(harness_->scheduler->Cancel("", "a", {}).ok());
  StepTo(3);
  script_->finish_gate()->Open();
  EXPECT_EQ(a->Result().code(), absl::StatusCode::kCancelled);
  Finish();
  EXPECT_EQ(script_->live_jobs(), 0);
  EXPECT_TRUE(running_->Result().ok());
  EXPECT_EQ(harness_->observer.images(), 1);
}

TEST_F(DecodeBesideTest, ADeadlineThatPassesDuringTheDecodeIsMissed) {
  SchedulerOptions options = Beside();
  options.costs = FlatCosts(absl::Milliseconds(10));
  Run(options);
  GenerationRequest request = harness_->Request("a", 1);
  request.deadline = harness_->clock.Now() + absl::Seconds(5);
  const auto a = harness_->Submit(request);
  StepTo(2);
  script_->finish_gate()->AwaitBlocked();
  harness_->clock.Advance(absl::Seconds(6));
  script_->finish_gate()->Open();
  EXPECT_EQ(a->Result().code(), absl::StatusCode::kDeadlineExceeded);
  Finish();
  EXPECT_EQ(harness_->observer.images(), 1);
  EXPECT_EQ(script_->live_jobs(), 0);
}

TEST_F(DecodeBesideTest, ADecodeThatDoesNotFitBesideAStepHasTheDeviceToItself) {
  Run();
  const auto a = Submit("a", 1, 2);
  StepTo(2);
  script_->finish_gate()->AwaitBlocked();
  script_->SetNoRoomBeside();
  script_->finish_gate()->Allow(1);
  script_->finish_gate()->AwaitArrivals(2);  // the second has begun beside the step that waits for its gate
  script_->finish_gate()->Open();
  script_->step_gate()->Open();
  EXPECT_TRUE(a->Result().ok());
  EXPECT_TRUE(running_->Result().ok());
  harness_->Settle();
  const std::vector<std::string> calls = script_->calls();
  EXPECT_EQ(std::count(calls.begin(), calls.end(), "finish a"), 3);
  EXPECT_THAT(harness_->observer.counts(), IsEmpty());
}

TEST_F(DecodeBesideTest, WhereOneDidNotFitBesideAStepTheNextAreNotTriedThere) {
  constexpr int kImages = 16;
  SchedulerOptions options = Beside();
  options.max_batch = kImages + 1;
  Run(options);
  const auto a = Submit("a", 1, kImages);
  script_->SetNoRoomBeside();
  StepTo(2);
  script_->finish_gate()->AwaitBlocked();  // beside the third step, of which at least one finds no room
  script_->finish_gate()->Open();
  for (int step = 3; step < 3 + kImages; ++step) StepTo(step);
  Finish();
  EXPECT_TRUE(a->Result().ok());
  EXPECT_TRUE(running_->Result().ok());
  const std::vector<std::string> calls = script_->calls();
  const auto decodes = std::count(calls.begin(), calls.end(), "finish a");
  const auto in_vain = decodes - kImages + static_cast<int64_t>(script_->steps().size()) - 40;
  EXPECT_GE(in_vain, 1);
  EXPECT_LE(in_vain, 2);
}

TEST_F(DecodeBesideTest, AStepThatDoesNotFitBesideADecodeHasTheDeviceToItself) {
  Run();
  const auto a = Submit("a");
  StepTo(2);
  script_->finish_gate()->AwaitBlocked();
  script_->SetNoRoomBeside();
  StepTo(3);  // the next has begun beside the decode
  script_->step_gate()->Open();
  script_->finish_gate()->Open();
  EXPECT_TRUE(a->Result().ok());
  EXPECT_TRUE(running_->Result().ok());
  EXPECT_THAT(harness_->observer.counts(), IsEmpty());  // no batch was split
}

// A step takes a second: neither the time in which the first try came to nothing is one's, nor that of the decode.
TEST_F(DecodeBesideTest, AStepThatIsMadeTwiceIsNotTakenForASlowOne) {
  Run();
  script_->SetDurations({}, absl::Seconds(1), {});
  const auto a = Submit("a");
  StepTo(2);
  script_->finish_gate()->AwaitBlocked();
  script_->SetNoRoomBeside();
  StepTo(3);
  const absl::Duration long_time = WatchdogOptions().floor - absl::Seconds(5);
  harness_->clock.Advance(long_time);
  script_->step_gate()->Allow(1);
  script_->finish_gate()->Open();
  script_->step_gate()->AwaitArrivals(5);  // the second try
  script_->step_gate()->Allow(1);
  script_->step_gate()->AwaitArrivals(6);  // it is made, and known
  EXPECT_TRUE(a->Result().ok());
  CostModel costs = harness_->scheduler->Costs();
  const int rows = harness_->Request("r").images[0].guidance_scale > 1 ? 2 : 1;
  EXPECT_NEAR(costs.StepSeconds(costs.Curve("fake", 1), rows), 1, 0.1);
}

class DecodeMemoryTest : public DecodeBesideTest {
 protected:
  // What a decode is known to need, once it is known.
  int64_t Learned() const {
    CostModel costs = harness_->scheduler->Costs();
    return costs.ActivationBytes(DecodeCurve(&costs, "fake", 1), 1);
  }
};

TEST_F(DecodeMemoryTest, WhatADecodeNeedsIsLearnedOfOneByItself) {
  for (Decoding decoding : {Decoding::kBetweenSteps, Decoding::kBesideSteps}) {
    SchedulerOptions options = Beside();
    options.decoding = decoding;
    harness_ = std::make_unique<SchedulerHarness>(options);
    script_ = harness_->AddModel();
    script_->SetDecodeBytes(70'000);
    EXPECT_TRUE(Submit("a", 3)->Result().ok());
    EXPECT_EQ(Learned(), 70'000);
  }
}

TEST_F(DecodeMemoryTest, BesideAStepItIsNotKnownWhoNeededWhat) {
  Run();
  script_->SetDecodeBytes(70'000);
  const auto a = Submit("a");
  StepTo(2);
  script_->finish_gate()->AwaitArrivals(1);
  script_->finish_gate()->Open();
  EXPECT_TRUE(a->Result().ok());
  EXPECT_EQ(Learned(), 0);
  harness_->scheduler->Cancel("", "r", {}).IgnoreError();
}

TEST_F(DecodeMemoryTest, NorBesideALoad) {
  harness_ = std::make_unique<SchedulerHarness>(Beside());
  script_ = harness_->AddModel();
  script_->SetDecodeBytes(70'000);
  Gate loading;
  loading.Close();
  harness_->scheduler->AddModel(
      "other", "cpu",
      [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
        loading.Pass();
        return absl::UnavailableError("never mind");
      },
      [](const auto&) {});
  loading.AwaitBlocked();
  EXPECT_TRUE(Submit("a")->Result().ok());
  EXPECT_EQ(Learned(), 0);
  loading.Open();
  harness_->scheduler.reset();
}

TEST_F(DecodeBesideTest, APictureThatIsNotFiniteFailsAlone) {
  Run();
  script_->Fail("bad", Stage::kFinish, absl::DataLossError("NaN"));
  const auto bad = Submit("bad");
  const auto good = Submit("good");
  Finish();
  EXPECT_EQ(bad->Result().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(good->Result().ok());
  EXPECT_TRUE(running_->Result().ok());
}

TEST_F(DecodeBesideTest, OneThatCannotBeDecodedAtAllFailsAloneAndSaysWhoHasTheMemory) {
  Run();
  script_->Fail("bad", Stage::kFinish, absl::ResourceExhaustedError("out of memory"));
  const auto bad = Submit("bad");
  const auto good = Submit("good");
  Finish();
  const absl::Status status = bad->Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("fake (fp32)"));
  EXPECT_TRUE(good->Result().ok());
  EXPECT_TRUE(running_->Result().ok());
  EXPECT_EQ(script_->live_jobs(), 0);
}

TEST_F(DecodeBesideTest, AnExceptionInTheDecoderEndsOneRequest) {
  Run();
  script_->Throw("bad", Stage::kFinish);
  const auto bad = Submit("bad");
  const auto good = Submit("good");
  Finish();
  EXPECT_EQ(bad->Result().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(good->Result().ok());
}

TEST_F(DecodeBesideTest, WhenTheDecoderFindsTheDeviceLostAllItsImagesGoOnElsewhere) {
  Run();
  FakeScript* const other = harness_->AddModel("fake", "other");
  other->step_gate()->Close();
  const auto keeps_it_busy = Submit("o");
  other->step_gate()->AwaitBlocked();
  script_->Fail("a", Stage::kFinish, ContextLost());
  const auto a = Submit("a");
  StepTo(2);
  script_->finish_gate()->Allow(1);
  script_->finish_gate()->AwaitPassed(1);
  other->step_gate()->Open();
  script_->step_gate()->Open();
  for (EventReader* reader : {a.get(), running_.get(), keeps_it_busy.get()}) {
    const std::vector<RequestEvent> events = reader->Rest();
    EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
    ASSERT_THAT(EventsOf<ImageEvent>(events), SizeIs(1));
    EXPECT_EQ(EventsOf<ImageEvent>(events).front().provenance.device, "other");
  }
  harness_->Settle();
  EXPECT_EQ(other->live_jobs(), 0);
  EXPECT_EQ(harness_->scheduler->Snapshot().devices[0].lost, "the device's context is lost");
}

// What has been decoded, or is being, when a step finds that out is drawn once.
TEST_F(DecodeBesideTest, WhenAStepFindsTheDeviceLostWhatIsBeingDecodedGoesOnElsewhere) {
  Run();
  script_->Fail("r", Stage::kStep, ContextLost(), 2);
  const auto a = Submit("a");
  StepTo(2);
  script_->finish_gate()->AwaitBlocked();
  FakeScript* const other = harness_->AddModel("fake", "other");
  script_->step_gate()->Open();
  EXPECT_TRUE(a->Result().ok());  // though the other's call has not come back
  EXPECT_TRUE(running_->Result().ok());
  script_->finish_gate()->Open();
  harness_->Settle();
  EXPECT_EQ(harness_->observer.images(), 2);
  EXPECT_EQ(other->live_jobs(), 0);
}

// The decode has the device to itself, so that what the next image needs of it first is never done.
TEST_F(DecodeBesideTest, ADeviceThatIsLostBeforeAnImageIsPreparedIsNoEnd) {
  KeepDecodesApart();
  script_->finish_gate()->Close();
  script_->Fail("a", Stage::kFinish, ContextLost());
  const auto a = Submit("a");
  script_->finish_gate()->AwaitBlocked();
  const auto next = Submit("next");
  next->Await<StartedEvent>();
  harness_->AddModel("fake", "other");
  script_->finish_gate()->Open();
  EXPECT_TRUE(a->Result().ok());
  EXPECT_TRUE(next->Result().ok());
}

TEST_F(DecodeBesideTest, ADecoderThatHangsIsFoundWhileNothingElseIsGoingOn) {
  harness_ = std::make_unique<SchedulerHarness>(Beside());
  script_ = harness_->AddModel();
  script_->finish_gate()->Close();
  const auto a = Submit("a");
  script_->finish_gate()->AwaitBlocked();
  FakeScript* const other = harness_->AddModel("fake", "other");
  LetItHang(harness_.get());
  EXPECT_TRUE(a->Result().ok());
  EXPECT_THAT(StepTexts(*other), ElementsAre("a0"));
  // What it answers at last is nobody's.
  script_->finish_gate()->Open();
  script_->finish_gate()->AwaitPassed(1);
  EXPECT_TRUE(Submit("b")->Result().ok());
  EXPECT_EQ(harness_->observer.images(), 2);
  harness_->scheduler.reset();  // the loss is told of when its images have gone on elsewhere
  EXPECT_THAT(harness_->observer.counts(), Contains(Pair("lost cpu", 1)));
}

TEST_F(DecodeBesideTest, ADecoderThatHangsIsFoundWhileStepsAreMade) {
  Run();
  const auto a = Submit("a");
  StepTo(2);
  script_->finish_gate()->AwaitBlocked();
  FakeScript* const other = harness_->AddModel("fake", "other");
  const absl::Duration half = WatchdogOptions().floor / 2;
  harness_->clock.Advance(half);
  StepTo(3);  // the step that begins now does not hang when the decode does
  harness_->clock.AwaitWaiter(harness_->clock.Now() + half);
  harness_->clock.Advance(half);
  script_->step_gate()->Open();
  EXPECT_TRUE(a->Result().ok());
  EXPECT_TRUE(running_->Result().ok());
  EXPECT_THAT(StepTexts(*other), Contains(HasSubstr("a0")));
  script_->finish_gate()->Open();
  harness_->scheduler.reset();  // the loss is told of when its images have gone on elsewhere
  EXPECT_THAT(harness_->observer.counts(), Contains(Pair("lost cpu", 1)));
}

TEST_F(DecodeBesideTest, TheSchedulerGoesWithoutADecoderThatHangs) {
  harness_ = std::make_unique<SchedulerHarness>(Beside());
  const auto script = std::make_shared<FakeScript>();
  Gate gone;  // passed when the engine goes
  const auto loader = [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
    const std::shared_ptr<FakeScript> last(script.get(), [script, &gone](FakeScript*) { gone.Pass(); });
    return std::make_unique<FakeEngine>(FakeModelInfo(), last, nullptr);
  };
  ASSERT_TRUE(harness_->Load("fake", "cpu", loader).ok());
  script->finish_gate()->Close();
  const auto a = Submit("a");
  script->finish_gate()->AwaitBlocked();
  harness_->scheduler->Stop();
  EXPECT_EQ(a->Result().code(), absl::StatusCode::kUnavailable);
  LetItHang(harness_.get());
  harness_->scheduler.reset();  // returns, though the thread is still there
  EXPECT_EQ(script->live_jobs(), 1);
  script->finish_gate()->Open();
  gone.AwaitPassed(1);
  EXPECT_EQ(script->live_jobs(), 0);
}

TEST_F(DecodeBesideTest, DrainingWaitsForTheDecoder) {
  harness_ = std::make_unique<SchedulerHarness>(Beside());
  script_ = harness_->AddModel();
  script_->finish_gate()->Close();
  const auto a = Submit("a");
  script_->finish_gate()->AwaitBlocked();
  EXPECT_FALSE(harness_->scheduler->Drain(harness_->clock.Now()));
  script_->finish_gate()->Open();
  EXPECT_TRUE(harness_->scheduler->Drain(absl::InfiniteFuture()));
  EXPECT_TRUE(a->Result().ok());
}

TEST_F(DecodeBesideTest, StoppingEndsWhatTheDecoderHas) {
  Run();
  const auto a = Submit("a", 1, 3);
  StepTo(2);
  script_->finish_gate()->AwaitBlocked();
  harness_->scheduler->Stop();
  EXPECT_EQ(a->Result().code(), absl::StatusCode::kUnavailable);
  harness_->OpenGates();
  harness_->scheduler.reset();
  EXPECT_EQ(script_->live_jobs(), 0);
}

// The thread that computes has left by then, and cannot act on it.
TEST_F(DecodeBesideTest, ADecoderThatFindsTheDeviceLostWhenAllIsStoppedEndsItsRequests) {
  Run();
  script_->Fail("a", Stage::kFinish, ContextLost());
  const auto a = Submit("a", 1, 2);
  StepTo(2);
  script_->finish_gate()->AwaitBlocked();
  harness_->scheduler->Stop();
  script_->step_gate()->Open();
  EXPECT_EQ(running_->Result().code(), absl::StatusCode::kUnavailable);
  script_->finish_gate()->Open();
  harness_->scheduler.reset();
  EXPECT_THAT(harness_->observer.done(), SizeIs(2));  // both requests
  EXPECT_THAT(harness_->observer.counts(), Contains(Pair("lost cpu", 1)));
  EXPECT_EQ(script_->live_jobs(), 0);
}

TEST_F(DecodeBesideTest, AModelIsUnloadedOnceItsPicturesAreDecoded) {
  harness_ = std::make_unique<SchedulerHarness>(Beside());
  script_ = harness_->AddModel();
  script_->finish_gate()->Close();
  const auto a = Submit("a");
  script_->finish_gate()->AwaitBlocked();
  const auto removed = std::make_shared<Gate>();
  ASSERT_TRUE(harness_->scheduler
                  ->RemoveModel("fake", "cpu", Removal::kWhenDone,
                                [removed](const absl::Status& status) {
                                  EXPECT_TRUE(status.ok());
                                  removed->Pass();
                                })
                  .ok());
  script_->finish_gate()->Open();
  EXPECT_TRUE(a->Result().ok());
  removed->AwaitPassed(1);
}

// The device has held the step's peak, whichever thread looked first.
TEST_F(DecodeBesideTest, ARequestIsToldWhatTheDeviceHasHeld) {
  harness_ = std::make_unique<SchedulerHarness>(Beside());
  script_ = harness_->AddModel();
  script_->step_gate()->Close();
  const auto a = Submit("a", 2, 1);
  const auto b = Submit("b", 2, 1);
  script_->step_gate()->Open();
  for (EventReader* reader : {a.get(), b.get()}) {
    const std::vector<RequestEvent> events = reader->Rest();
    ASSERT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
    EXPECT_GE(std::get<CompletedEvent>(events.back()).peak_memory_bytes, 2000);
  }
}

TEST_F(DecodeBesideTest, OfManyRequestsNoneIsLostAndNoneDrawnTwiceThoughDevicesAre) {
  SchedulerOptions options = Beside();
  options.costs = {};  // nothing is refused
  options.max_batch = 4;
  harness_ = std::make_unique<SchedulerHarness>(options);
  harness_->AddModel("fake", "a")->Fail("r7", Stage::kFinish, ContextLost());
  harness_->AddModel("fake", "b")->Fail("r21", Stage::kStep, ContextLost(), 1);
  harness_->AddModel("fake", "c");
  std::vector<std::unique_ptr<EventReader>> readers;
  for (int i = 0; i < 60; ++i) {
    readers.push_back(harness_->Submit(
        harness_->Sized(harness_->Request(absl::StrCat("r", i), 2 + i % 3, 1 + i % 2), 16 * (1 + i % 2))));
    if (i % 10 == 9) harness_->scheduler->Cancel("", absl::StrCat("r", i - 4), {}).IgnoreError();
  }
  int completed = 0;
  for (int i = 0; i < 60; ++i) {
    const std::vector<RequestEvent> events = readers[i]->Rest();
    const bool cancelled = i % 10 == 5 && std::holds_alternative<FailedEvent>(events.back());
    if (cancelled) {
      EXPECT_EQ(std::get<FailedEvent>(events.back()).status.code(), absl::StatusCode::kCancelled) << i;
      continue;
    }
    ++completed;
    EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back())) << i;
    EXPECT_THAT(EventsOf<ImageEvent>(events), SizeIs(1 + i % 2)) << i;
  }
  EXPECT_GE(completed, 54);
  harness_->scheduler.reset();  // with which goes what the lost devices had
  for (const auto& [device, script] : harness_->scripts) EXPECT_EQ(script->live_jobs(), 0) << device;
}

}  // namespace
}  // namespace fresco
