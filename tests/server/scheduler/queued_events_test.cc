// What those who wait are told: how many go before them, how long that takes, and again when it turns out otherwise.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::SizeIs;

constexpr absl::Duration kSecond = absl::Seconds(1);

// A device that draws one image at a time, with steps of a second.
SchedulerOptions OneByOne(const std::string& policy = "deadline-fair") {
  SchedulerOptions options;
  options.core.policy = policy;
  options.max_batch = 1;
  options.costs = FlatCosts(kSecond);
  return options;
}

double Seconds(absl::Duration duration) {
  return absl::ToDoubleSeconds(duration);
}

class QueuedEventsTest : public ::testing::TestWithParam<const char*> {};

TEST_P(QueuedEventsTest, AnEstimateIsOfWhatGoesBeforeAndNotOfTheImageOrWhatIsBehindIt) {
  SchedulerHarness harness(OneByOne(GetParam()));
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 4));
  script->step_gate()->AwaitBlocked();
  std::vector<std::unique_ptr<EventReader>> waiting;
  for (int i = 0; i < 4; ++i) {  // each due after those before it, as it asks for more
    waiting.push_back(harness.Submit(harness.Request("w" + std::to_string(i), 10 + i)));
    const QueuedEvent event = waiting.back()->Await<QueuedEvent>();
    EXPECT_EQ(event.position, i);
    EXPECT_NEAR(Seconds(event.estimated_wait), 4 + 10 * i + i * (i - 1) / 2, 0.1) << i;
  }
}

// Two images of one request, of which one has started: the other is before who comes then.
TEST_P(QueuedEventsTest, ImagesOfRequestsThatHaveStartedCount) {
  SchedulerHarness harness(OneByOne(GetParam()));
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 4, 2));
  script->step_gate()->AwaitBlocked();
  auto next = harness.Submit(harness.Request("next", 40));
  const QueuedEvent event = next->Await<QueuedEvent>();
  EXPECT_EQ(event.position, 0);
  EXPECT_NEAR(Seconds(event.estimated_wait), 8, 0.1);
}

TEST_P(QueuedEventsTest, ARequestForAnotherDeviceIsNotBefore) {
  SchedulerHarness harness(OneByOne(GetParam()));
  FakeScript* script = harness.AddModel();
  FakeScript* other = harness.AddModel("other", "cuda:0");
  for (FakeScript* each : {script, other}) each->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 4));
  script->step_gate()->AwaitBlocked();
  auto before = harness.Submit(harness.Request("before", 50));
  GenerationRequest request = harness.Request("elsewhere", 4);
  request.model = "other";
  auto elsewhere = harness.Submit(request);
  other->step_gate()->AwaitBlocked();
  request.id = "waits";
  const QueuedEvent event = harness.Submit(request)->Await<QueuedEvent>();
  EXPECT_EQ(event.position, 0);
  EXPECT_LT(Seconds(event.estimated_wait), 10);
}

INSTANTIATE_TEST_SUITE_P(Policies, QueuedEventsTest, ::testing::Values("fifo", "dynamic", "deadline-fair"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// All are late, and nothing has been done in the meantime: each waits for those before it.
TEST(QueuedEventTest, LateImagesAreToldWhatIsBeforeEachOfThem) {
  SchedulerHarness harness(OneByOne());
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 100));
  script->step_gate()->AwaitBlocked();
  std::vector<std::unique_ptr<EventReader>> late;
  for (int i = 0; i < 4; ++i) {
    late.push_back(harness.Submit(harness.Request("w" + std::to_string(i), 5)));
    EXPECT_NEAR(Seconds(late.back()->Await<QueuedEvent>().estimated_wait), 100 + 5 * i, 0.5);
  }
  auto last = harness.Submit(harness.Request("last", 6));
  harness.clock.Advance(40 * kSecond);
  ASSERT_TRUE(harness.scheduler->Cancel("", "last", absl::CancelledError("")).ok());
  for (int i = 0; i < 4; ++i) {
    const QueuedEvent event = late[i]->Await<QueuedEvent>();
    EXPECT_EQ(event.position, i);
    EXPECT_NEAR(Seconds(event.estimated_wait), 100 + 5 * i, 0.5);
  }
}

TEST(QueuedEventTest, WhoWaitsIsToldAgainWhenStepsTakeLonger) {
  SchedulerHarness harness(OneByOne());
  FakeScript* script = harness.AddModel();
  script->SetDurations({}, 4 * kSecond, {});
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 20));
  script->step_gate()->AwaitBlocked();
  auto waiting = harness.Submit(harness.Request("waiting", 30));
  EXPECT_NEAR(Seconds(waiting->Await<QueuedEvent>().estimated_wait), 20, 0.1);
  script->step_gate()->Allow(4);  // 16 s, which should have been 4
  const QueuedEvent again = waiting->Await<QueuedEvent>();
  EXPECT_EQ(again.position, 0);
  EXPECT_GT(Seconds(again.estimated_wait), 16);
}

TEST(QueuedEventTest, WhoWaitsIsNotToldAgainWhileAllGoesAsItWasTold) {
  SchedulerHarness harness(OneByOne());
  FakeScript* script = harness.AddModel();
  script->SetDurations({}, kSecond, {});
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 20));
  script->step_gate()->AwaitBlocked();
  auto waiting = harness.Submit(harness.Request("waiting", 4));
  EXPECT_NEAR(Seconds(waiting->Await<QueuedEvent>().estimated_wait), 20, 0.1);
  script->step_gate()->Open();
  EXPECT_THAT(EventsOf<QueuedEvent>(waiting->Rest()), SizeIs(0));
}

}  // namespace
}  // namespace fresco
