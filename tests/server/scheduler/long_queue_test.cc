// With hundreds of requests waiting nobody looks at all of them at once; what they are promised holds all the same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "server/scheduler/retry.h"
#include "server/scheduler/scheduler.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

constexpr int kMany = 600;

SchedulerOptions Options() {
  SchedulerOptions options;
  options.max_queue = kMany;
  options.max_batch = 1;
  options.costs = FlatCosts(absl::Seconds(1));
  for (ClassOptions& of : options.core.classes) of.max_wait = absl::Hours(10);
  options.watchdog.floor = absl::Hours(10);  // the first step waits for the test
  return options;
}

// One request is in its first step, and kMany wait, until the gate opens.
class LongQueueTest : public testing::Test {
 protected:
  LongQueueTest() : harness_(Options()), script_(harness_.AddModel()) {
    script_->step_gate()->Close();
    running_ = harness_.Submit(harness_.Request("running", 30));
    script_->step_gate()->AwaitBlocked();
    for (int i = 0; i < kMany; ++i) {
      GenerationRequest request = harness_.Request("r" + std::to_string(i), 1);
      if (i == kMany - 100) request.deadline = harness_.clock.Now() + absl::Hours(1);
      channels_.push_back(harness_.scheduler->Submit(request).value());
      readers_.push_back(std::make_unique<EventReader>(channels_.back()));
    }
  }

  QueuedEvent AwaitPlace(int request, int position) {
    while (true) {
      const auto event = readers_[request]->Await<QueuedEvent>();
      if (event.position == position) return event;
    }
  }

  int Waiting() const { return harness_.scheduler->Snapshot().waiting; }

  SchedulerHarness harness_;
  FakeScript* script_;
  std::unique_ptr<EventReader> running_;
  std::vector<std::shared_ptr<EventChannel>> channels_;
  std::vector<std::unique_ptr<EventReader>> readers_;
};

TEST_F(LongQueueTest, EverybodyIsToldItsPlaceAndWhenItMovesUp) {
  for (int i = 0; i < kMany; ++i) AwaitPlace(i, i);
  EXPECT_TRUE(harness_.scheduler->Cancel("", "r7", absl::OkStatus()).ok());
  EXPECT_EQ(readers_[7]->Result().code(), absl::StatusCode::kCancelled);
  for (int i = 8; i < kMany; ++i) AwaitPlace(i, i - 1);
}

TEST_F(LongQueueTest, ADeadlineThatPassesIsKept) {
  harness_.clock.Advance(absl::Hours(1));
  EXPECT_EQ(readers_[kMany - 100]->Result().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Waiting(), kMany - 1);
}

TEST_F(LongQueueTest, WhoHasGoneAwayMakesRoom) {
  channels_[kMany / 2]->Close();
  // Each that is refused has some of those that wait asked whether they are still there.
  int refused = 0;
  std::shared_ptr<EventChannel> taken;
  while (taken == nullptr && refused < kMany) {
    auto channel = harness_.scheduler->Submit(harness_.Request("another"));
    if (channel.ok()) {
      taken = *channel;
    } else {
      ++refused;
    }
  }
  EXPECT_LT(refused, 50);
  EXPECT_EQ(Waiting(), kMany);
}

TEST_F(LongQueueTest, WhoIsRefusedHearsWhenTheFirstStarts) {
  AwaitPlace(kMany - 1, kMany - 1);
  const absl::Status refused = harness_.scheduler->Submit(harness_.Request("another")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NEAR(absl::ToDoubleSeconds(RetryAfter(refused).value()), 30, 0.1);  // the steps of the one that runs
}

TEST_F(LongQueueTest, AllAreDrawn) {
  script_->step_gate()->Open();
  EXPECT_TRUE(running_->Result().ok());
  int drawn = 0;
  for (auto& reader : readers_) drawn += reader->Result().ok() ? 1 : 0;
  EXPECT_EQ(drawn, kMany);
  EXPECT_EQ(script_->live_jobs(), 0);
}

}  // namespace
}  // namespace fresco
