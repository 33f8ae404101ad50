// Which steps are recorded, what of it is counted, and that nothing is left on.
#include "server/scheduler/step_profiler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/fake_clock.h"
#include "tests/support/fake_recorder.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class StepProfilerTest : public ::testing::Test {
 protected:
  void Step(const std::string& model, const std::string& device, absl::Duration duration, int rows = 2) {
    StepProfiler::Step step(profiler_, model, device, rows, /*tokens=*/100);
    step.End(/*made=*/true, duration);
  }

  int64_t Start(int steps, const std::string& device = "") {
    const auto number = profiler_->Start({"fake", device, steps, RecordedDetail::kLayers}, [this] { ++done_; });
    EXPECT_TRUE(number.ok()) << number.status();
    return number.value_or(-1);
  }

  FakeClock clock_;
  FakeProfiler fake_;
  std::shared_ptr<StepProfiler> profiler_ = std::make_shared<StepProfiler>(fake_.source(), &clock_);
  int done_ = 0;
};

TEST_F(StepProfilerTest, WithoutAnOrderNothingIsRecorded) {
  Step("fake", "cpu", absl::Seconds(1));
  EXPECT_THAT(fake_.calls(), IsEmpty());
}

TEST_F(StepProfilerTest, EverySecondStepIsRecordedUntilThereAreEnough) {
  const int64_t number = Start(2);
  for (const double seconds : {1.0, 1.1, 1.0, 1.3, 1.0, 1.0}) Step("fake", "cpu", absl::Seconds(seconds));
  EXPECT_EQ(done_, 1);
  EXPECT_THAT(fake_.calls(), ElementsAre("cpu layers", "begin", "end", "cpu layers", "begin", "end", "peaks of cpu",
                                         "bandwidth of cpu"));
  const auto profile = profiler_->Take(number);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->device, "cpu");
  EXPECT_EQ(profile->recordings.size(), 2u);
  EXPECT_THAT(absl::ToDoubleSeconds(profile->recorded), DoubleNear(1.2, 1e-9));
  EXPECT_EQ(profile->plain, absl::Seconds(1));
  ASSERT_TRUE(profile->overhead.has_value());
  EXPECT_THAT(*profile->overhead, DoubleNear(0.2, 1e-9));
  EXPECT_EQ(profile->limits.peaks.at("bf16"), 4e12);
  EXPECT_EQ(profile->limits.bandwidth, 1e9);
}

TEST_F(StepProfilerTest, ALimitThatCannotBeMeasuredIsLeftOut) {
  fake_.SetBandwidth(absl::ResourceExhaustedError("no room for a copy"));
  const int64_t number = Start(1);
  for (int i = 0; i < 2; ++i) Step("fake", "cpu", absl::Seconds(1));
  const auto profile = profiler_->Take(number);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->limits.peaks.at("bf16"), 4e12);
  EXPECT_EQ(profile->limits.bandwidth, 0);
}

TEST_F(StepProfilerTest, StepsOfOtherImagesAreNotCompared) {
  const int64_t number = Start(1);
  Step("fake", "cpu", absl::Seconds(1), /*rows=*/2);
  Step("fake", "cpu", absl::Seconds(2), /*rows=*/4);
  const auto profile = profiler_->Take(number);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->recordings.size(), 1u);
  EXPECT_FALSE(profile->overhead.has_value());
}

TEST_F(StepProfilerTest, OtherModelsAndDevicesDoNotCount) {
  const int64_t number = Start(1, "cuda:1");
  for (int i = 0; i < 2; ++i) {
    Step("other", "cuda:1", absl::Seconds(1));
    Step("fake", "cuda:0", absl::Seconds(1));
  }
  EXPECT_THAT(fake_.calls(), IsEmpty());
  Step("fake", "cuda:1", absl::Seconds(1));
  Step("other", "cuda:1", absl::Seconds(1));
  Step("fake", "cuda:1", absl::Seconds(1));
  EXPECT_EQ(profiler_->Take(number)->device, "cuda:1");
}

TEST_F(StepProfilerTest, ItStaysWithTheDeviceThatWasFirst) {
  const int64_t number = Start(1);
  Step("fake", "cuda:0", absl::Seconds(1));
  Step("fake", "cuda:1", absl::Seconds(1));
  EXPECT_THAT(fake_.calls(), IsEmpty());
  Step("fake", "cuda:0", absl::Seconds(1));
  EXPECT_EQ(profiler_->Take(number)->device, "cuda:0");
}

TEST_F(StepProfilerTest, OneAtATime) {
  const int64_t number = Start(1);
  const auto second = profiler_->Start({"fake", "", 1, RecordedDetail::kLayers}, [] {});
  EXPECT_TRUE(absl::IsAborted(second.status()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("'fake' is being profiled already"));
  EXPECT_TRUE(profiler_->Take(number)->recordings.empty());
  Start(1);
}

TEST_F(StepProfilerTest, AStepThatIsRecordedWhenItsProfileEndsIsNobodys) {
  const int64_t number = Start(2);
  Step("fake", "cpu", absl::Seconds(1));
  {
    StepProfiler::Step recorded(profiler_, "fake", "cpu", 2, 100);
    EXPECT_TRUE(profiler_->Take(number)->recordings.empty());
    const auto next = profiler_->Start({"fake", "", 1, RecordedDetail::kLayers}, [] {});
    EXPECT_TRUE(absl::IsAborted(next.status()));
    EXPECT_THAT(std::string(next.status().message()), HasSubstr("has not ended"));
    recorded.End(/*made=*/true, absl::Seconds(1));
  }
  EXPECT_EQ(done_, 0);
  EXPECT_THAT(fake_.calls(), ElementsAre("cpu layers", "begin", "end"));
  Start(1);
}

TEST_F(StepProfilerTest, AStepThatFailsOrIsLostCountsForNothingAndIsNotLeftOn) {
  const int64_t number = Start(1);
  Step("fake", "cpu", absl::Seconds(1));
  {
    StepProfiler::Step failed(profiler_, "fake", "cpu", 2, 100);
    EXPECT_FALSE(failed.End(/*made=*/false, absl::Seconds(9)));
    EXPECT_THAT(fake_.calls(), ElementsAre("cpu layers", "begin", "abandon"));
  }
  { StepProfiler::Step lost(profiler_, "fake", "cpu", 2, 100); }
  EXPECT_EQ(fake_.calls().back(), "abandon");
  EXPECT_EQ(done_, 0);
  Step("fake", "cpu", absl::Seconds(1));
  EXPECT_EQ(done_, 1);
  EXPECT_EQ(profiler_->Take(number)->recordings.size(), 1u);
}

TEST_F(StepProfilerTest, WhatKeepsStepsFromBeingRecordedIsSaid) {
  fake_.FailToBegin(absl::InternalError("no profiler"));
  const int64_t number = Start(1);
  for (int i = 0; i < 3; ++i) Step("fake", "cpu", absl::Seconds(1));
  EXPECT_EQ(done_, 1);
  EXPECT_EQ(profiler_->Take(number).status(), absl::InternalError("no profiler"));
}

TEST_F(StepProfilerTest, TakenTwiceOrNeverBegunIsAnError) {
  const int64_t number = Start(1);
  EXPECT_TRUE(profiler_->Take(number).ok());
  EXPECT_TRUE(absl::IsInternal(profiler_->Take(number).status()));
}

class ProfiledSchedulerTest : public ::testing::Test {
 protected:
  SchedulerOptions Options() const {
    SchedulerOptions options;
    options.step_profiler = profiler_;
    return options;
  }

  FakeClock clock_;
  FakeProfiler fake_;
  std::shared_ptr<StepProfiler> profiler_ = std::make_shared<StepProfiler>(fake_.source(), &clock_);
};

TEST_F(ProfiledSchedulerTest, StepsThatAreMadeAreRecorded) {
  SchedulerHarness harness(Options());
  harness.AddModel();
  Gate done;
  const auto number = profiler_->Start({"fake", "", 2, RecordedDetail::kOperations}, [&] { done.Pass(); });
  ASSERT_TRUE(number.ok()) << number.status();
  const auto reader = harness.Submit(SchedulerHarness::Request("a", /*steps=*/6));
  done.AwaitPassed(1);
  const auto profile = profiler_->Take(*number);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->device, "cpu");
  EXPECT_EQ(profile->recordings.size(), 2u);
  harness.Settle();
  EXPECT_THAT(fake_.calls(), ElementsAre("cpu operations", "begin", "end", "cpu operations", "begin", "end",
                                         "peaks of cpu", "bandwidth of cpu"));
}

// The halves are made while the whole one's recorder would still be there.
TEST_F(ProfiledSchedulerTest, AStepThatIsSplitIsNotRecordedInAnother) {
  SchedulerHarness harness(Options());
  FakeScript* const script = harness.AddModel();
  script->SetMemoryLimit(1);
  Gate done;
  const auto number = profiler_->Start({"fake", "", 3, RecordedDetail::kLayers}, [&] { done.Pass(); });
  ASSERT_TRUE(number.ok()) << number.status();
  const auto reader = harness.Submit(SchedulerHarness::Request("a", /*steps=*/8, /*images=*/2));
  done.AwaitPassed(1);
  EXPECT_EQ(profiler_->Take(*number)->recordings.size(), 3u);
  harness.Settle();
  int open = 0;
  for (const std::string& call : fake_.calls()) {
    if (call == "begin") ++open;
    if (call == "end" || call == "abandon") --open;
    EXPECT_LE(open, 1);
    EXPECT_GE(open, 0);
  }
  EXPECT_EQ(open, 0);
}

}  // namespace
}  // namespace fresco
