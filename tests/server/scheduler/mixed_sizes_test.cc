// Images of different sizes in one step, through the threads, with an engine that takes them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "server/scheduler/scheduler.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::_;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::Pair;
using Stage = FakeScript::Stage;

const absl::Duration kStep = absl::Seconds(3);

// A device on which sharing steps costs nothing, and requests that it hears of one after another.
class MixedSizesTest : public ::testing::Test {
 protected:
  MixedSizesTest() : harness_(Options()), script_(harness_.AddModel()) {
    script_->SetMixesSizes();
    script_->SetDurations({}, kStep, {});
    script_->step_gate()->Close();
  }

  static SchedulerOptions Options() {
    SchedulerOptions options;
    options.costs = FlatCosts(kStep);
    return options;
  }

  static GenerationRequest RequestOf(const std::string& id, int side, int steps) {
    GenerationRequest request = SchedulerHarness::Sized(SchedulerHarness::Request(id, steps), side);
    request.tenant = id;
    return request;
  }

  // The first is in its first step when the second comes, which is due sooner.
  void SubmitBoth() {
    small_ = harness_.Submit(RequestOf("a", 16, 3));
    script_->step_gate()->AwaitBlocked();
    large_ = harness_.Submit(RequestOf("b", 32, 2));
    script_->step_gate()->Open();
  }

  SchedulerHarness harness_;
  FakeScript* const script_;
  std::unique_ptr<EventReader> small_, large_;
};

TEST_F(MixedSizesTest, ShareAStepAndEachGetsItsPicture) {
  SubmitBoth();
  const std::vector<RequestEvent> small = small_->Rest(), large = large_->Rest();
  EXPECT_THAT(StepTexts(*script_), ElementsAre("a0", "b0 a1", "b1 a2"));
  ASSERT_EQ(EventsOf<ImageEvent>(small).size(), 1u);
  ASSERT_EQ(EventsOf<ImageEvent>(large).size(), 1u);
  EXPECT_EQ(EventsOf<ImageEvent>(large).front().image.bytes,
            PictureText(32, 32, FakeColour(RequestOf("b", 32, 2).images[0])));
  std::vector<double> steps_left;
  for (const ProgressEvent& event : EventsOf<ProgressEvent>(small)) {
    steps_left.push_back(absl::FDivDuration(event.remaining, kStep));
  }
  EXPECT_THAT(steps_left, ElementsAre(DoubleNear(2, 0.01), DoubleNear(1, 0.01), 0));
  EXPECT_EQ(std::get<CompletedEvent>(small.back()).batch_size_max, 2);
}

// A token against four, each attended to by as many: a little less than a fifth of the two steps together.
TEST_F(MixedSizesTest, TheDevicesTimeIsSharedOutByWork) {
  SubmitBoth();
  harness_.Settle();
  const double small = absl::FDivDuration(harness_.observer.usage("a").device_time, kStep);
  const double large = absl::FDivDuration(harness_.observer.usage("b").device_time, kStep);
  EXPECT_NEAR(small + large, 3, 1e-6);
  EXPECT_NEAR(small, 1 + 2 * 0.2, 1e-3);
}

TEST_F(MixedSizesTest, WhatDoesNotFitTogetherGoesOnApart) {
  script_->SetMemoryLimit(1);
  SubmitBoth();
  EXPECT_TRUE(small_->Result().ok());
  EXPECT_TRUE(large_->Result().ok());
  // Once: from then on it is known that the two do not fit.
  EXPECT_THAT(StepTexts(*script_), ElementsAre("a0", "b0 a1", "b0", "a1", _, _));
  EXPECT_THAT(harness_.observer.counts(), ElementsAre(Pair("fake split on cpu", 1)));
}

TEST_F(MixedSizesTest, OneThatFailsFailsAlone) {
  script_->Fail("b", Stage::kStep, absl::DataLossError("the velocity is not finite"), 1);
  SubmitBoth();
  EXPECT_EQ(large_->Result().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(small_->Result().ok());
  EXPECT_THAT(StepTexts(*script_), ElementsAre("a0", "b0 a1", "b1 a2"));
}

// The engine throws for the whole step, and so both fail; what comes next is drawn.
TEST_F(MixedSizesTest, AnEngineThatRefusesTheMixtureFailsItsStepAndNothingElse) {
  script_->Throw("b", Stage::kStep);
  SubmitBoth();
  EXPECT_EQ(large_->Result().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(small_->Result().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(harness_.Submit(RequestOf("c", 16, 2))->Result().ok());
}

TEST_F(MixedSizesTest, DeterministicOnesThatMustBeAloneShareNone) {
  small_ = harness_.Submit(RequestOf("a", 16, 2));
  script_->step_gate()->AwaitBlocked();
  GenerationRequest request = RequestOf("b", 32, 2);
  request.images.front().deterministic = true;
  large_ = harness_.Submit(request);
  script_->step_gate()->Open();
  EXPECT_TRUE(small_->Result().ok());
  EXPECT_TRUE(large_->Result().ok());
  for (const FakeStep& step : script_->steps()) EXPECT_EQ(step.images.size(), 1u) << StepText(step);
}

}  // namespace
}  // namespace fresco
