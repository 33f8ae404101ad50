// Previews, and those whose steps they hold up.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "server/scheduler/policy/preview_budget.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::SizeIs;

constexpr absl::Duration kSecond = absl::Seconds(1);

TEST(PreviewBudgetTest, PreviewsTakeTheirShareOfTheStepsTime) {
  PreviewBudget budget(0.25);
  int made = 0;
  for (int step = 0; step < 100; ++step) {
    budget.AddStep(kSecond);
    if (!budget.Allows()) continue;
    budget.Spend(kSecond / 2);
    ++made;
  }
  EXPECT_GE(made, 50);  // 25 s of 100 s
  EXPECT_LE(made, 52);
}

TEST(PreviewBudgetTest, WhatIsNotUsedIsKeptForNoLongerThanAStep) {
  PreviewBudget budget(0.25);
  for (int step = 0; step < 100; ++step) budget.AddStep(kSecond);
  int made = 0;
  for (; budget.Allows(); ++made) budget.Spend(kSecond / 2);
  EXPECT_EQ(made, 3);
}

TEST(PreviewBudgetTest, WithoutAShareThereAreNone) {
  PreviewBudget budget(0);
  budget.AddStep(kSecond);
  EXPECT_FALSE(budget.Allows());
}

// The steps that had a preview.
std::vector<int> Previewed(const std::vector<RequestEvent>& events) {
  std::vector<int> steps;
  for (const ProgressEvent& event : EventsOf<ProgressEvent>(events)) {
    if (event.preview.has_value()) steps.push_back(event.step);
  }
  return steps;
}

// Steps of 1 s whatever their number of images, and previews of 1 s, which may take a fifth of that.
class PreviewsTest : public ::testing::Test {
 protected:
  PreviewsTest() {
    SchedulerOptions options;
    options.costs = FlatCosts(kSecond);
    for (ClassOptions& of : options.core.classes) of.max_wait = absl::Hours(10);  // nothing is refused
    harness_ = std::make_unique<SchedulerHarness>(options);
    script_ = harness_->AddModel();
    script_->SetDurations({}, kSecond, {});
    script_->SetPreviewDuration(kSecond);
    script_->step_gate()->Close();
  }

  std::unique_ptr<EventReader> Submit(const std::string& id, int steps, int every) {
    GenerationRequest request = harness_->Request(id, steps);
    request.preview_every = every;
    return harness_->Submit(std::move(request));
  }

  std::unique_ptr<SchedulerHarness> harness_;
  FakeScript* script_ = nullptr;
};

TEST_F(PreviewsTest, WhoIsAloneGetsAllThatWereAskedFor) {
  const auto a = Submit("a", 20, 1);
  script_->step_gate()->Open();
  EXPECT_THAT(Previewed(a->Rest()), SizeIs(20));
}

TEST_F(PreviewsTest, OthersInTheBatchAreHeldUpForTheirShareOnly) {
  const auto a = Submit("a", 20, 1);
  const auto b = Submit("b", 20, 0);
  script_->step_gate()->Open();
  const std::vector<int> steps = Previewed(a->Rest());
  EXPECT_GE(steps.size(), 4u);
  EXPECT_LE(steps.size(), 6u);  // a fifth of 20 s, and once more a step and a preview
  EXPECT_TRUE(b->Result().ok());
}

TEST_F(PreviewsTest, OneThatHasToWaitComesLater) {
  const auto a = Submit("a", 24, 8), b = Submit("b", 24, 8), c = Submit("c", 24, 8);
  script_->step_gate()->Open();
  std::vector<int> firsts;
  for (EventReader* reader : {a.get(), b.get(), c.get()}) {
    const std::vector<int> steps = Previewed(reader->Rest());
    ASSERT_FALSE(steps.empty());
    firsts.push_back(steps.front());
  }
  // What eight steps have earned does for two; the third comes when others have earned it, and before the next is due.
  std::sort(firsts.begin(), firsts.end());
  EXPECT_EQ(firsts[0], 8);
  EXPECT_EQ(firsts[1], 8);
  EXPECT_GT(firsts[2], 8);
  EXPECT_LT(firsts[2], 16);
}

}  // namespace
}  // namespace fresco
