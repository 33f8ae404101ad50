// What is thrown by code that is not the scheduler's ends neither the process nor anybody else's image. (Stages of an
// engine that are steps on an image's way: scheduler_failure_test.cc.)
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "server/scheduler/guarded.h"
#include "server/scheduler/scheduler.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::HasSubstr;
using Stage = FakeScript::Stage;

TEST(GuardedTest, WhatIsThrownBecomesAStatus) {
  EXPECT_TRUE(Guarded("it", [] { return absl::OkStatus(); }).ok());
  EXPECT_EQ(GuardedValue("it", [] { return 3; }).value(), 3);
  const absl::Status thrown = GuardedVoid("it", [] { throw std::runtime_error("boom"); });
  EXPECT_EQ(thrown.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(thrown.message(), "it threw an exception: boom");
  EXPECT_EQ(GuardedVoid("it", [] { throw std::bad_alloc(); }).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GuardedVoid("it", [] { throw 3; }).code(), absl::StatusCode::kInternal);
}

class WeighingTest : public ::testing::TestWithParam<Stage> {};

TEST_P(WeighingTest, AnEngineThatThrowsOverARequestHasItRefused) {
  SchedulerHarness harness;
  harness.AddModel()->Throw("bad", GetParam());
  const absl::Status refused = harness.scheduler->Submit(harness.Request("bad")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("scripted exception for bad"));
  EXPECT_TRUE(harness.Submit(harness.Request("good"))->Result().ok());
}

INSTANTIATE_TEST_SUITE_P(Stages, WeighingTest, ::testing::Values(Stage::kBatchKey, Stage::kLoadOf));

TEST(ExceptionsTest, APeakThatCannotBeReadFailsNothing) {
  SchedulerHarness harness;
  harness.AddModel()->Throw("", Stage::kPeak);
  EXPECT_TRUE(harness.Submit(harness.Request("a"))->Result().ok());
}

TEST(ExceptionsTest, AThrowingStepFailsItsBatchAndNobodyElse) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->Throw("bad", Stage::kStep, 1);
  script->step_gate()->Close();
  auto bad = harness.Submit(harness.Request("bad"));
  script->step_gate()->AwaitBlocked();
  auto other = harness.Submit(harness.Sized(harness.Request("other"), 32));  // never in a step with it
  script->step_gate()->Open();
  EXPECT_EQ(bad->Result().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(other->Result().ok());
  EXPECT_EQ(script->live_jobs(), 0);
}

TEST(ExceptionsTest, ALoaderThatThrowsIsAModelThatCouldNotBeLoaded) {
  SchedulerHarness harness;
  const absl::Status status =
      harness.Load("broken", "cpu", []() -> absl::StatusOr<std::unique_ptr<Engine>> { throw std::bad_alloc(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  harness.AddModel();
  EXPECT_TRUE(harness.Submit(harness.Request("a"))->Result().ok());
}

TEST(ExceptionsTest, ALoadedCallbackThatThrowsLeavesTheModelUsable) {
  SchedulerHarness harness;
  const auto script = std::make_shared<FakeScript>();
  harness.scheduler->AddModel(
      "fake", "cpu",
      [&] {
        return absl::StatusOr<std::unique_ptr<Engine>>(std::make_unique<FakeEngine>(FakeModelInfo(), script, nullptr));
      },
      [](const auto&) { throw std::runtime_error("thrown by the callback"); });
  harness.AddModel("other");  // after it, on the same thread
  EXPECT_TRUE(harness.Submit(harness.Request("a"))->Result().ok());
}

TEST(ExceptionsTest, AReaderThatThrowsLosesItsRequestAlone) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  const auto bad = harness.scheduler->Submit(harness.Request("bad"));
  ASSERT_TRUE(bad.ok());
  (*bad)->SetReadyCallback([] { throw std::runtime_error("thrown by the reader"); });
  auto good = harness.Submit(harness.Request("good"));
  script->step_gate()->Open();
  EXPECT_TRUE(good->Result().ok());
  harness.Settle();
  for (const auto& done : harness.observer.done()) {
    EXPECT_EQ(done.code, done.id == "bad" ? absl::StatusCode::kCancelled : absl::StatusCode::kOk) << done.id;
  }
}

// Of everything that it is told.
class ThrowingObserver final : public SchedulerObserver {
 public:
  void OnQueueDepth(const std::string&, const std::string&, int) override { Throw(); }
  void OnRequestsRunning(int) override { Throw(); }
  void OnQueueWait(const std::string&, const std::string&, absl::Duration, absl::Duration) override { Throw(); }
  void OnStage(const std::string&, const std::string&, absl::Duration) override { Throw(); }
  void OnStep(const std::string&, const std::string&, int, absl::Duration) override { Throw(); }
  void OnImage(const std::string&) override { Throw(); }
  void OnRequestDone(const std::string&, const std::string&, const absl::Status&, absl::Duration) override { Throw(); }

 private:
  [[noreturn]] static void Throw() { throw std::runtime_error("thrown by the observer"); }
};

TEST(ExceptionsTest, AnObserverThatThrowsBreaksNothing) {
  FakeClock clock;
  ThrowingObserver observer;
  Scheduler scheduler({}, &clock, &observer);
  Gate loaded;
  scheduler.AddModel(
      "fake", "cpu",
      [] {
        return absl::StatusOr<std::unique_ptr<Engine>>(
            std::make_unique<FakeEngine>(FakeModelInfo(), std::make_shared<FakeScript>(), nullptr));
      },
      [&](const auto&) { loaded.Pass(); });
  loaded.AwaitPassed(1);
  const auto channel = scheduler.Submit(SchedulerHarness::Request("a"));
  ASSERT_TRUE(channel.ok());
  EXPECT_TRUE(EventReader(*channel).Result().ok());
  EXPECT_TRUE(scheduler.Drain(absl::InfiniteFuture()));
}

}  // namespace
}  // namespace fresco
