// Texts, steps, decoding and encoding beside each other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

const absl::Duration kTenth = absl::Milliseconds(100);
constexpr int kTextTokens = 256;  // of the requests

// Steps of 1 s, texts of 400 ms, decodes of 600 ms.
SchedulerOptions Measured(absl::Duration text = 4 * kTenth) {
  SchedulerOptions options;
  options.costs = FlatCosts(10 * kTenth);
  for (int texts = 1; texts <= 8; ++texts) {
    options.costs.RecordStep(TextCurve(&options.costs, "fake", kTextTokens), texts, texts * text);
  }
  options.costs.RecordStep(DecodeCurve(&options.costs, "fake", 1), 1, 6 * kTenth);
  return options;
}

// With one whose step is about to be made, and does not end until the gate is open.
class StagesTest : public ::testing::Test {
 protected:
  void Run(const SchedulerOptions& options, absl::Duration text = 4 * kTenth) {
    harness_ = std::make_unique<SchedulerHarness>(options);
    script_ = harness_->AddModel();
    script_->SetDurations({}, 10 * kTenth, 6 * kTenth);
    script_->SetDurationsOfEach(text, {});
    script_->step_gate()->Close();
    running_ = harness_->Submit(harness_->Request("r", 9));
    script_->step_gate()->AwaitBlocked();
  }

  std::unique_ptr<EventReader> Submit(const std::string& id, int steps) {
    return harness_->Submit(harness_->Request(id, steps));
  }

  // All that the engine does from now on.
  std::vector<std::string> Finish() {
    const size_t before = script_->calls().size();
    script_->step_gate()->Open();
    harness_->Settle();
    std::vector<std::string> calls = script_->calls();
    calls.erase(calls.begin(), calls.begin() + static_cast<std::ptrdiff_t>(before));
    return calls;
  }

  std::unique_ptr<SchedulerHarness> harness_;
  FakeScript* script_ = nullptr;
  std::unique_ptr<EventReader> running_;
};

TEST_F(StagesTest, TextsOfImagesThatStartTogetherAreEncodedTogetherAndOnce) {
  SchedulerOptions options;
  options.costs = FlatCosts(10 * kTenth);
  Run(options, kTenth);
  auto request = harness_->Request("a", 2, 3);
  request.images[0].negative_prompt = "dull";
  const auto a = harness_->Submit(request);
  const auto b = Submit("b", 2);
  Finish();
  ASSERT_THAT(script_->preparations(), SizeIs(2));
  EXPECT_THAT(script_->preparations()[0].texts, ElementsAre("r", ""));
  EXPECT_THAT(script_->preparations()[1].images, UnorderedElementsAre("a", "a", "a", "b"));
  EXPECT_THAT(script_->preparations()[1].texts, UnorderedElementsAre("a", "dull", "b"));  // "" is in the cache
  // What a request is told is the time that passed, not three times that.
  EXPECT_EQ(std::get<CompletedEvent>(a->Rest().back()).timings.prepare, 3 * kTenth);
  EXPECT_TRUE(b->Result().ok());
}

TEST_F(StagesTest, ARunningBatchWaitsNoLongerThanAStepForTexts) {
  Run(Measured());
  const auto a = Submit("a", 9), b = Submit("b", 9), c = Submit("c", 9), d = Submit("d", 9);
  const std::vector<std::string> calls = Finish();
  ASSERT_GE(calls.size(), 4u);
  EXPECT_EQ(calls[0], "prepare a b");
  EXPECT_EQ(calls[1], "step r1 a0 b0");
  EXPECT_EQ(calls[2], "prepare c d");
  EXPECT_EQ(calls[3], "step r2 a1 b1 c0 d0");
  EXPECT_TRUE(d->Result().ok());
}

TEST_F(StagesTest, ATextThatTakesLongerThanAStepIsEncodedAllTheSame) {
  Run(Measured(40 * kTenth), 40 * kTenth);
  const auto a = Submit("a", 9), b = Submit("b", 9);
  const std::vector<std::string> calls = Finish();
  ASSERT_GE(calls.size(), 4u);
  EXPECT_EQ(calls[0], "prepare a");
  EXPECT_EQ(calls[1], "step r1 a0");
  EXPECT_EQ(calls[2], "prepare b");
  EXPECT_EQ(calls[3], "step r2 a1 b0");
}

TEST_F(StagesTest, TheMostUrgentOfThoseThatAreDoneIsDecodedFirst) {
  Run(Measured());
  auto batch = harness_->Request("b", 1);
  batch.priority = RequestPriority::kBatch;
  auto interactive = harness_->Request("i", 1);
  interactive.priority = RequestPriority::kInteractive;
  const auto b = harness_->Submit(batch);
  const auto i = harness_->Submit(interactive);
  const std::vector<std::string> calls = Finish();
  ASSERT_GE(calls.size(), 5u);
  EXPECT_THAT(std::vector<std::string>(calls.begin(), calls.begin() + 5),
              ElementsAre("prepare i b", "step i0 r1 b0", "finish i", "step r2", "finish b"));
  EXPECT_TRUE(b->Result().ok());
  EXPECT_TRUE(i->Result().ok());
}

TEST_F(StagesTest, ThreeThatFinishTogetherAreDecodedAtThreeBoundaries) {
  Run(Measured());
  const auto a = harness_->Submit(harness_->Request("a", 1, 3));
  const std::vector<std::string> calls = Finish();
  ASSERT_GE(calls.size(), 8u);
  EXPECT_THAT(std::vector<std::string>(calls.begin(), calls.begin() + 8),
              ElementsAre("prepare a a a", "step a0 a0 a0 r1", "finish a", "step r2", "finish a", "step r3", "finish a",
                          "step r4"));
  EXPECT_THAT(EventsOf<ImageEvent>(a->Rest()), SizeIs(3));
}

TEST_F(StagesTest, AnImageThatIsCancelledBeforeItIsDecodedLeavesNothing) {
  Run(Measured());
  const auto a = harness_->Submit(harness_->Request("a", 1, 3));
  script_->step_gate()->Allow(2);
  script_->step_gate()->AwaitArrivals(3);  // two wait to be decoded
  EXPECT_EQ(script_->live_jobs(), 3);
  EXPECT_TRUE(harness_->scheduler->Cancel("", "a", {}).ok());
  script_->step_gate()->Allow(1);
  script_->step_gate()->AwaitArrivals(4);
  EXPECT_EQ(script_->live_jobs(), 1);
  EXPECT_EQ(a->Result().code(), absl::StatusCode::kCancelled);
  Finish();
  EXPECT_TRUE(running_->Result().ok());
}

TEST_F(StagesTest, StoppingEndsWhatWaitsToBeDecoded) {
  Run(Measured());
  const auto a = harness_->Submit(harness_->Request("a", 1, 3));
  script_->step_gate()->Allow(2);
  script_->step_gate()->AwaitArrivals(3);
  harness_->scheduler->Stop();
  EXPECT_EQ(a->Result().code(), absl::StatusCode::kUnavailable);
  harness_->OpenGates();
  harness_->scheduler.reset();
  EXPECT_EQ(script_->live_jobs(), 0);
}

// Its last step is made again on the other: what waits to be decoded has no copy.
TEST_F(StagesTest, WhatWaitsToBeDecodedGoesOnElsewhereWhenItsDeviceIsLost) {
  Run(Measured());
  FakeScript* const other = harness_->AddModel("fake", "other");
  other->prepare_gate()->Close();
  const auto keeps_it_busy = Submit("o", 1);
  other->prepare_gate()->AwaitBlocked();
  script_->Fail("r", FakeScript::Stage::kStep, absl::AbortedError("the device's context is lost"), 3);
  const auto a = harness_->Submit(harness_->Request("a", 2, 3));
  script_->step_gate()->Allow(3);
  script_->step_gate()->AwaitArrivals(4);  // one is decoded, two wait
  EXPECT_EQ(script_->live_jobs(), 3);
  script_->step_gate()->Open();
  other->prepare_gate()->Open();
  EXPECT_THAT(EventsOf<ImageEvent>(a->Rest()), SizeIs(3));
  EXPECT_TRUE(running_->Result().ok());
  EXPECT_TRUE(keeps_it_busy->Result().ok());
  harness_->Settle();
  EXPECT_EQ(harness_->observer.images(), 5);
  EXPECT_EQ(harness_->observer.counts()["fake moved from cpu"], 3);
  for (const std::string& step : StepTexts(*other)) EXPECT_THAT(step, Not(HasSubstr("a0")));
  EXPECT_EQ(other->live_jobs(), 0);
}

// What runs goes on elsewhere; to decode what is done is the device's last work for the model.
TEST_F(StagesTest, AModelThatLeavesADeviceDecodesWhatIsDoneThere) {
  Run(Measured());
  FakeScript* const other = harness_->AddModel("fake", "other");
  other->prepare_gate()->Close();
  const auto keeps_it_busy = Submit("o", 1);
  other->prepare_gate()->AwaitBlocked();
  const auto a = harness_->Submit(harness_->Request("a", 1, 3));
  script_->step_gate()->Allow(2);
  script_->step_gate()->AwaitArrivals(3);  // one is decoded, two wait
  EXPECT_EQ(script_->live_jobs(), 3);
  Gate removed;
  ASSERT_TRUE(harness_->scheduler
                  ->RemoveModel("fake", "cpu", Removal::kWhenDone,
                                [&](const absl::Status& status) {
                                  EXPECT_TRUE(status.ok()) << status;
                                  removed.Pass();
                                })
                  .ok());
  script_->step_gate()->Open();
  removed.AwaitPassed(1);
  EXPECT_EQ(std::ranges::count(script_->calls(), "finish a"), 3);
  EXPECT_THAT(EventsOf<ImageEvent>(a->Rest()), SizeIs(3));
  other->prepare_gate()->Open();
  EXPECT_TRUE(running_->Result().ok());
  EXPECT_TRUE(keeps_it_busy->Result().ok());
  harness_->Settle();
  EXPECT_EQ(script_->live_jobs(), 0);
  EXPECT_EQ(other->live_jobs(), 0);
}

TEST_F(StagesTest, AnImageThatCannotBeDecodedFailsAlone) {
  Run(Measured());
  script_->Fail("bad", FakeScript::Stage::kFinish, absl::DataLossError("NaN"));
  const auto bad = Submit("bad", 1);
  const auto good = Submit("good", 1);
  Finish();
  EXPECT_EQ(bad->Result().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(good->Result().ok());
  EXPECT_TRUE(running_->Result().ok());
  EXPECT_EQ(script_->live_jobs(), 0);
}

TEST_F(StagesTest, OneThatCannotBePreparedFailsAloneThoughItThrows) {
  Run({});
  script_->Throw("bad", FakeScript::Stage::kPrepare);
  const auto bad = Submit("bad", 1);
  const auto good = Submit("good", 1);
  Finish();
  EXPECT_EQ(bad->Result().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(good->Result().ok());
}

TEST_F(StagesTest, ATextWhoseEmbeddingIsNoNumberIsNotEncodedAgain) {
  Run(Measured());
  script_->Fail("bad", FakeScript::Stage::kPrepare, absl::DataLossError("NaN"));
  const auto bad = harness_->Submit(harness_->Request("bad", 1, 2));
  Finish();
  EXPECT_EQ(bad->Result().code(), absl::StatusCode::kDataLoss);
  ASSERT_THAT(script_->preparations(), SizeIs(2));
  EXPECT_THAT(script_->preparations()[1].images, ElementsAre("bad", "bad"));
}

// A picture's encoder is held up; the device goes on.
TEST_F(StagesTest, PicturesAreEncodedWhileOthersAreDrawn) {
  Run(Measured());
  const auto a = Submit("a", 1);
  harness_->image_gate.Close();
  script_->step_gate()->Allow(2);  // a is done
  harness_->image_gate.AwaitBlocked();
  script_->step_gate()->Allow(3);
  script_->step_gate()->AwaitArrivals(6);
  EXPECT_THAT(StepTexts(*script_), Contains("r4"));
  EXPECT_EQ(harness_->observer.images(), 0);
  harness_->image_gate.Open();
  EXPECT_TRUE(a->Result().ok());
  script_->step_gate()->Open();
  EXPECT_TRUE(running_->Result().ok());
}

// The default size is 64 x 64, 16 tokens; a step takes 1 s for each row, whatever the size, a text 400 ms, a decode
// 600 ms.
class LoadMeasurementTest : public ::testing::Test {
 protected:
  void Load(const SchedulerOptions& options) {
    harness_ = std::make_unique<SchedulerHarness>(options);
    script_ = std::make_shared<FakeScript>();
    harness_->scripts["cpu"] = script_;
    script_->SetDurations({}, {}, 6 * kTenth);
    script_->SetDurationsOfEach(4 * kTenth, 10 * kTenth);
    ModelInfo info = FakeModelInfo();
    info.default_width = info.default_height = 64;
    const absl::Status loaded =
        harness_->Load("fake", "cpu", [this, info]() -> absl::StatusOr<std::unique_ptr<Engine>> {
          return std::make_unique<FakeEngine>(info, script_, &harness_->clock);
        });
    ASSERT_TRUE(loaded.ok());
  }

  // As "model tokens rows seconds".
  std::vector<std::string> Known() const {
    std::vector<std::string> known;
    for (const MeasuredStep& step : harness_->scheduler->Costs().Measured()) {
      known.push_back(absl::StrCat(step.model, " ", step.tokens, " ", step.rows, " ", step.seconds));
    }
    return known;
  }

  std::unique_ptr<SchedulerHarness> harness_;
  std::shared_ptr<FakeScript> script_;
};

SchedulerOptions Measuring(absl::Duration limit) {
  SchedulerOptions options;
  options.measure_at_load = limit;
  return options;
}

TEST_F(LoadMeasurementTest, WhatStepsTextsAndDecodesTakeIsKnownAfterALoad) {
  Load(Measuring(absl::Minutes(5)));
  EXPECT_THAT(Known(),
              ElementsAre("fake 1 1 1", "fake 1 2 2", "fake 1 4 4", "fake 4 1 1", "fake 4 2 2", "fake 4 4 4",
                          "fake 16 1 1", "fake 16 2 2", "fake 16 4 4", "fake/decode 1 1 0.6", "fake/decode 4 1 0.6",
                          "fake/decode 16 1 0.6", "fake/text 256 1 0.4", "fake/text 256 2 0.8"));
  // A step of two images is 3000 at its most, of which 1000 are weights and 20 the images.
  EXPECT_EQ(harness_->scheduler->Costs().Measured()[2].activation_bytes, 1980);
  EXPECT_EQ(script_->live_jobs(), 0);
}

// While the second replica stands in its first measured step, the first draws images of a size that it measures next.
TEST_F(LoadMeasurementTest, WhatIsLearnedMeanwhileCounts) {
  harness_ = std::make_unique<SchedulerHarness>(Measuring(absl::Minutes(20)));
  FakeScript* const slow = harness_->AddModel("fake", "cpu:0");
  slow->SetDurationsOfEach({}, absl::Seconds(10));
  script_ = std::make_shared<FakeScript>();
  harness_->scripts["cpu:1"] = script_;
  script_->SetDurationsOfEach({}, absl::Seconds(1));
  script_->step_gate()->Close();
  ModelInfo info = FakeModelInfo("fake", "cpu:1");
  info.default_width = info.default_height = 64;
  Gate loaded;
  harness_->scheduler->AddModel(
      "fake", "cpu:1",
      [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
        return std::make_unique<FakeEngine>(info, script_, &harness_->clock);
      },
      [&](const absl::StatusOr<EngineView>&) { loaded.Pass(); });
  script_->step_gate()->AwaitBlocked();
  EXPECT_TRUE(harness_->Submit(harness_->Sized(harness_->Request("x"), 32))->Result().ok());
  ASSERT_THAT(Known(), Contains("fake 4 2 20"));  // two rows of 10 s, four times
  script_->step_gate()->Open();
  loaded.AwaitPassed(1);
  EXPECT_THAT(Known(), Contains("fake 4 2 16.4"));  // and 2 s, once
}

TEST_F(LoadMeasurementTest, NothingIsBegunThatWouldTakeTooLong) {
  // 0.4 s for the texts, twice 2 s for a step: the next would take 4 s.
  Load(Measuring(absl::Seconds(7)));
  EXPECT_THAT(Known(), ElementsAre("fake 1 2 2", "fake/text 256 1 0.4"));
  EXPECT_LE(harness_->clock.Now(), FakeClock().Now() + absl::Seconds(7));
}

// A request for another model comes while steps of the new one are measured: it does not wait for the rest of them.
TEST_F(LoadMeasurementTest, NobodyWaitsForMoreThanTheCallUnderWay) {
  harness_ = std::make_unique<SchedulerHarness>(Measuring(absl::Minutes(5)));
  script_ = std::make_shared<FakeScript>();
  harness_->scripts["cpu"] = script_;
  script_->SetDurationsOfEach(4 * kTenth, 10 * kTenth);
  harness_->AddModel("other");
  ASSERT_THAT(Known(), Contains(HasSubstr("other 1 2")));
  script_->step_gate()->Close();
  const size_t before = script_->calls().size();
  Gate loaded;
  harness_->scheduler->AddModel(
      "fake", "cpu",
      [this]() -> absl::StatusOr<std::unique_ptr<Engine>> {
        return std::make_unique<FakeEngine>(FakeModelInfo("fake", "cpu"), script_, &harness_->clock);
      },
      [&](const absl::StatusOr<EngineView>& engine) {
        EXPECT_TRUE(engine.ok());
        loaded.Pass();
      });
  script_->step_gate()->AwaitBlocked();
  GenerationRequest request = harness_->Request("o", 1);
  request.model = "other";
  const auto other = harness_->Submit(request);
  script_->step_gate()->Open();
  EXPECT_TRUE(other->Result().ok());
  loaded.AwaitPassed(1);
  std::vector<std::string> calls = script_->calls();
  calls.erase(calls.begin(), calls.begin() + static_cast<std::ptrdiff_t>(before));
  EXPECT_THAT(calls, ElementsAre("prepare   ", "step 0", "prepare o", "step o0", "finish o"));
}

TEST_F(LoadMeasurementTest, WhatIsKnownIsNotMeasuredAgain) {
  Load(Measuring(absl::Minutes(5)));
  SchedulerOptions options = Measuring(absl::Minutes(5));
  options.costs = harness_->scheduler->Costs();
  Load(options);
  EXPECT_THAT(script_->calls(), IsEmpty());
}

TEST_F(LoadMeasurementTest, NothingIsMeasuredUnlessItIsAskedFor) {
  Load({});
  EXPECT_THAT(script_->calls(), IsEmpty());
  EXPECT_THAT(Known(), IsEmpty());
}

TEST_F(LoadMeasurementTest, AModelThatFailsWhenMeasuredIsLoadedAllTheSame) {
  SchedulerOptions options = Measuring(absl::Minutes(5));
  harness_ = std::make_unique<SchedulerHarness>(options);
  FakeScript* const script = (harness_->scripts["cpu"] = std::make_shared<FakeScript>()).get();
  script->SetMemoryLimit(1);
  script->SetDurationsOfEach({}, kTenth);
  harness_->AddModel();
  EXPECT_THAT(Known(), ElementsAre("fake 1 2 0.2"));
  EXPECT_TRUE(harness_->Submit(harness_->Request("a"))->Result().ok());
}

TEST_F(LoadMeasurementTest, ADeviceThatIsLostWhenAModelIsMeasuredHasNone) {
  harness_ = std::make_unique<SchedulerHarness>(Measuring(absl::Minutes(5)));
  const auto script = harness_->scripts["cpu"] = std::make_shared<FakeScript>();
  script->Fail("", FakeScript::Stage::kStep, absl::AbortedError("the device's context is lost"));
  const auto load = [&] {
    return harness_->Load("fake", "cpu", [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
      return std::make_unique<FakeEngine>(FakeModelInfo(), script, nullptr);
    });
  };
  EXPECT_EQ(load().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(harness_->scheduler->Snapshot().devices[0].lost, "the device's context is lost");
  EXPECT_EQ(load().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(harness_->scheduler->Submit(harness_->Request("a")).status().code(), absl::StatusCode::kUnavailable);
  harness_->AddModel("fake", "other");
  EXPECT_TRUE(harness_->Submit(harness_->Request("a"))->Result().ok());
}

TEST_F(LoadMeasurementTest, ADeviceThatHangsWhenAModelIsMeasuredKeepsNobodyWaiting) {
  SchedulerOptions options = Measuring(absl::Minutes(5));
  options.watchdog.first = options.watchdog.floor;
  const auto script = std::make_shared<FakeScript>();
  const auto loaded = std::make_shared<Gate>();  // passed by each that hears
  {
    SchedulerHarness harness(options);
    harness.scripts["cpu"] = script;
    script->step_gate()->Close();
    for (const char* model : {"fake", "next"}) {
      harness.scheduler->AddModel(
          model, "cpu",
          [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
            return std::make_unique<FakeEngine>(FakeModelInfo(), script, nullptr);
          },
          [loaded](const absl::StatusOr<EngineView>& engine) {
            EXPECT_EQ(engine.status().code(), absl::StatusCode::kUnavailable);
            loaded->Pass();
          });
    }
    script->step_gate()->AwaitBlocked();
    harness.clock.AwaitWaiter(harness.clock.Now() + options.watchdog.floor);
    harness.clock.Advance(options.watchdog.floor);
    loaded->AwaitPassed(2);
  }
  // The thread, should it come back, finds nobody.
  script->step_gate()->Open();
  EXPECT_THAT(StepTexts(*script), ElementsAre("0"));
}

// One at a time: the third waits for a text, 4 steps of 2 s and a decode, twice.
TEST_F(LoadMeasurementTest, TheFirstPredictionsAreRight) {
  SchedulerOptions options = Measuring(absl::Minutes(5));
  options.max_batch = 1;
  Load(options);
  script_->step_gate()->Close();
  std::vector<std::unique_ptr<EventReader>> readers;
  readers.push_back(harness_->Submit(harness_->Request("a")));
  script_->step_gate()->AwaitBlocked();
  readers.push_back(harness_->Submit(harness_->Request("b")));
  harness_->clock.Advance(10 * kTenth);
  readers.push_back(harness_->Submit(harness_->Request("c")));
  script_->step_gate()->Open();
  for (auto& reader : readers) EXPECT_TRUE(reader->Result().ok());
  harness_->Settle();
  const std::vector<absl::Duration> waits = harness_->observer.waits();
  const std::vector<absl::Duration> predicted = harness_->observer.predictions("standard");
  ASSERT_THAT(waits, SizeIs(3));
  EXPECT_GT(waits[2], absl::Seconds(16));
  EXPECT_GT(predicted[2], absl::Seconds(16));  // more than the steps alone
  for (int i : {1, 2}) {
    EXPECT_NEAR(absl::ToDoubleSeconds(predicted[i]), absl::ToDoubleSeconds(waits[i]), 1.1) << i;
  }
}

}  // namespace
}  // namespace fresco
