// What a request is called while it ends, and how long it is waited for when somebody else waits too.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "server/scheduler/scheduler.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

class IdsAndDeadlinesTest : public testing::Test {
 protected:
  explicit IdsAndDeadlinesTest(SchedulerOptions options = OneAtATime())
      : harness_(options), script_(harness_.AddModel()) {}

  static SchedulerOptions OneAtATime() {
    SchedulerOptions options;
    options.max_batch = 1;
    options.watchdog.floor = absl::Hours(10);  // steps wait for the test
    return options;
  }

  std::shared_ptr<EventChannel> Submit(GenerationRequest request) {
    return harness_.scheduler->Submit(std::move(request)).value();
  }
  // In its first step until the gate opens.
  std::shared_ptr<EventChannel> SubmitRunning(GenerationRequest request) {
    script_->step_gate()->Close();
    auto channel = Submit(std::move(request));
    script_->step_gate()->AwaitBlocked();
    return channel;
  }
  absl::StatusCode SubmitCode(const std::string& id) {
    return harness_.scheduler->Submit(SchedulerHarness::Request(id)).status().code();
  }

  SchedulerHarness harness_;
  FakeScript* const script_;
};

TEST_F(IdsAndDeadlinesTest, AnIdIsFreeAsSoonAsItsRequestIsCancelled) {
  const auto first = SubmitRunning(SchedulerHarness::Request("x"));
  EXPECT_EQ(SubmitCode("x"), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(harness_.scheduler->Cancel("", "x", absl::CancelledError("by its caller")).ok());
  // It is in a step still, which nothing interrupts.
  const auto second = Submit(SchedulerHarness::Request("x"));
  EXPECT_EQ(SubmitCode("x"), absl::StatusCode::kAlreadyExists);
  script_->step_gate()->Open();
  EXPECT_EQ(EventReader(first).Result().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(EventReader(second).Result().ok());
  EXPECT_EQ(harness_.scheduler->Cancel("", "x", absl::OkStatus()).code(), absl::StatusCode::kNotFound);
}

TEST_F(IdsAndDeadlinesTest, AnIdIsFreeAsSoonAsNobodyReads) {
  SubmitRunning(SchedulerHarness::Request("x"))->Close();
  const auto second = Submit(SchedulerHarness::Request("x"));
  EXPECT_EQ(SubmitCode("x"), absl::StatusCode::kAlreadyExists);
  // By its id it is the one that is read.
  EXPECT_TRUE(harness_.scheduler->Cancel("", "x", absl::CancelledError("by its caller")).ok());
  script_->step_gate()->Open();
  EXPECT_EQ(EventReader(second).Result().code(), absl::StatusCode::kCancelled);
}

TEST_F(IdsAndDeadlinesTest, WhoWaitsIsGivenMoreTime) {
  const auto running = SubmitRunning(SchedulerHarness::Request("running"));
  GenerationRequest request = SchedulerHarness::Request("waiting");
  request.deadline = harness_.clock.Now() + absl::Seconds(10);
  const auto extended = Submit(request);
  request.id = "not extended";
  const auto late = Submit(request);
  // Longer than steps take that are made of the time below.
  EXPECT_TRUE(harness_.scheduler->ExtendDeadline(*extended, harness_.clock.Now() + absl::Hours(1)).ok());
  // Not shortened.
  EXPECT_TRUE(harness_.scheduler->ExtendDeadline(*extended, harness_.clock.Now() + absl::Seconds(1)).ok());
  harness_.clock.Advance(absl::Seconds(50));
  EXPECT_EQ(EventReader(late).Result().code(), absl::StatusCode::kDeadlineExceeded);
  script_->step_gate()->Open();
  EXPECT_TRUE(EventReader(extended).Result().ok());
  EXPECT_TRUE(EventReader(running).Result().ok());
}

TEST_F(IdsAndDeadlinesTest, ButNotForEver) {
  const auto running = SubmitRunning(SchedulerHarness::Request("running"));
  GenerationRequest request = SchedulerHarness::Request("waiting");
  request.deadline = harness_.clock.Now() + absl::Seconds(10);
  const auto waiting = Submit(request);
  EXPECT_TRUE(harness_.scheduler->ExtendDeadline(*waiting, harness_.clock.Now() + absl::Seconds(100)).ok());
  harness_.clock.Advance(absl::Seconds(100));
  EXPECT_EQ(EventReader(waiting).Result().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(harness_.scheduler->ExtendDeadline(*waiting, absl::InfiniteFuture()).code(), absl::StatusCode::kNotFound);
}

class HopelessTest : public IdsAndDeadlinesTest {
 protected:
  HopelessTest() : IdsAndDeadlinesTest(Known()) { script_->SetDurations({}, absl::Seconds(3), {}); }

  // Steps of a second each, as far as is known; they take three.
  static SchedulerOptions Known() {
    SchedulerOptions options = OneAtATime();
    options.costs = FlatCosts(absl::Seconds(1));
    return options;
  }
  // To be done in eight seconds, as far as is known.
  GenerationRequest WithinTen() const {
    GenerationRequest request = SchedulerHarness::Request("a", 8);
    request.deadline = harness_.clock.Now() + absl::Seconds(10);
    return request;
  }
};

TEST_F(HopelessTest, WhatRunsIsDroppedWhenItCannotBeDoneInTime) {
  EXPECT_EQ(EventReader(Submit(WithinTen())).Result().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(HopelessTest, UnlessSomebodyWaitsLonger) {
  const auto running = SubmitRunning(WithinTen());
  EXPECT_TRUE(harness_.scheduler->ExtendDeadline(*running, absl::InfiniteFuture()).ok());
  script_->step_gate()->Open();
  EXPECT_TRUE(EventReader(running).Result().ok());
}

}  // namespace
}  // namespace fresco
