// Steps that go on after their calls, as a GPU's do: a call takes as long as the step before, and what a step has taken
// is known one step later.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "server/scheduler/policy/cost_model.h"
#include "server/scheduler/scheduler.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::Each;
using ::testing::SizeIs;

// Of one image 2 s, of two 3 s.
class StepTimesTest : public ::testing::Test {
 protected:
  explicit StepTimesTest(SchedulerOptions options = {}) : harness_(std::move(options)) {
    script_ = harness_.AddModel();
    script_->SetStepsAhead();
    script_->SetDurations({}, absl::Seconds(1), {});
    script_->SetDurationsOfEach({}, absl::Seconds(1));
  }

  static GenerationRequest Unguided(GenerationRequest request) {
    for (ImageSpec& spec : request.images) spec.guidance_scale = 1;
    return request;
  }

  // One image by itself, then two, then one again.
  void DrawOneThenTwoThenOne() {
    script_->step_gate()->Close();
    const auto first = harness_.Submit(Unguided(harness_.Request("first", 12)));
    script_->step_gate()->AwaitArrivals(1);
    const auto second = harness_.Submit(Unguided(harness_.Request("second", 4)));
    script_->step_gate()->Open();
    EXPECT_TRUE(first->Result().ok());
    EXPECT_TRUE(second->Result().ok());
    harness_.Settle();
  }

  SchedulerHarness harness_;
  FakeScript* script_;
};

// Where sharing is known to pay, so that it is known how many steps are shared.
class SharedStepTimesTest : public StepTimesTest {
 protected:
  static SchedulerOptions Sharing() {
    SchedulerOptions options;
    options.costs = FlatCosts(absl::Seconds(1));
    return options;
  }
  SharedStepTimesTest() : StepTimesTest(Sharing()) {}
};

TEST_F(SharedStepTimesTest, EachStepIsToldWithItsOwn) {
  DrawOneThenTwoThenOne();
  EXPECT_THAT(harness_.observer.steps(1), Each(absl::Seconds(2)));
  EXPECT_THAT(harness_.observer.steps(2), Each(absl::Seconds(3)));
  // All but that of the last one, which nobody has waited for.
  EXPECT_THAT(harness_.observer.steps(2), SizeIs(4));
  EXPECT_THAT(harness_.observer.steps(1), SizeIs(7));
}

TEST_F(StepTimesTest, EachSizeOfStepLearnsItsOwn) {
  DrawOneThenTwoThenOne();
  CostModel costs = harness_.scheduler->Costs();
  const CurveId curve = costs.Curve("fake", 1);
  EXPECT_NEAR(costs.StepSeconds(curve, 1), 2, 0.01);
  EXPECT_NEAR(costs.StepSeconds(curve, 2), 3, 0.01);
}

}  // namespace
}  // namespace fresco
