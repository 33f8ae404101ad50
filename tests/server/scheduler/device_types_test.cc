// Deterministic images on devices of several types: the same bits each time, on whichever type they were begun.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/scheduler/scheduler.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using Stage = FakeScript::Stage;

GenerationRequest Deterministic(GenerationRequest request) {
  for (ImageSpec& spec : request.images) spec.deterministic = true;
  return request;
}

GenerationRequest WithPriority(GenerationRequest request, RequestPriority priority) {
  request.priority = priority;
  return request;
}

std::string DeviceOf(EventReader* reader) {
  const std::vector<RequestEvent> events = reader->Rest();
  const std::vector<ImageEvent> images = EventsOf<ImageEvent>(events);
  return images.empty() ? "nowhere" : images.front().provenance.device;
}

// A GPU has made the first two steps of a deterministic image, "x", of four.
class DeviceTypesTest : public ::testing::Test {
 protected:
  static SchedulerOptions OneAtATime() {
    SchedulerOptions options;
    options.max_batch = options.max_resident = 1;
    return options;
  }

  DeviceTypesTest() {
    gpu_->step_gate()->Close();
    x_ = harness_.Submit(WithPriority(Deterministic(SchedulerHarness::Request("x")), RequestPriority::kBatch));
    gpu_->step_gate()->AwaitBlocked();
    gpu_->step_gate()->Allow(1);
    gpu_->step_gate()->AwaitArrivals(2);
  }

  // "x" is in host memory, and the GPU stands before the first step of "urgent".
  void ParkX() {
    urgent_ = harness_.Submit(WithPriority(SchedulerHarness::Request("urgent", 2), RequestPriority::kInteractive));
    gpu_->step_gate()->Allow(1);
    gpu_->step_gate()->AwaitArrivals(3);
  }

  // After its third step, of which there is a copy: others had the model when it was begun.
  void LoseItsDevice() {
    gpu_->Fail("x", Stage::kStep, absl::AbortedError("the context is lost"), 3);
    gpu_->step_gate()->Open();
  }

  // The device draws whatever it may.
  void ExpectIdle() {
    EXPECT_TRUE(
        harness_.Submit(WithPriority(SchedulerHarness::Request("filler"), RequestPriority::kBatch))->Result().ok());
  }

  SchedulerHarness harness_{OneAtATime()};
  FakeScript* const gpu_ = harness_.AddModel("fake", "cuda:0");
  std::unique_ptr<EventReader> x_, urgent_;
};

TEST_F(DeviceTypesTest, WhatIsParkedWaitsForADeviceOfItsType) {
  ParkX();
  FakeScript* cpu = harness_.AddModel("fake", "cpu");
  ExpectIdle();  // it came after "x"
  EXPECT_THAT(StepTexts(*cpu), ElementsAre("filler0", "filler1", "filler2", "filler3"));
  gpu_->step_gate()->Open();
  EXPECT_EQ(DeviceOf(x_.get()), "cuda:0");
  EXPECT_THAT(StepTexts(*gpu_), ElementsAre("x0", "x1", "urgent0", "urgent1", "x2", "x3"));
}

TEST_F(DeviceTypesTest, WhatIsParkedGoesOnOnAnotherDeviceOfItsType) {
  ParkX();
  harness_.AddModel("fake", "cpu");
  FakeScript* other = harness_.AddModel("fake", "cuda:1");
  EXPECT_EQ(DeviceOf(x_.get()), "cuda:1");
  EXPECT_THAT(StepTexts(*other), ElementsAre("x2", "x3"));
}

TEST_F(DeviceTypesTest, WhatALostDeviceHadGoesOnOnAnotherOfItsType) {
  FakeScript* other = harness_.AddModel("fake", "cuda:1");
  other->step_gate()->Close();
  const auto busy = harness_.Submit(WithPriority(SchedulerHarness::Request("busy"), RequestPriority::kBatch));
  other->step_gate()->AwaitBlocked();
  FakeScript* cpu = harness_.AddModel("fake", "cpu");
  LoseItsDevice();
  while (harness_.scheduler->Snapshot().devices[0].lost.empty()) std::this_thread::yield();
  ExpectIdle();  // it came after "x"
  other->step_gate()->Open();
  EXPECT_EQ(DeviceOf(x_.get()), "cuda:1");
  EXPECT_THAT(StepTexts(*other), AllOf(Contains("x3"), Not(Contains("x0"))));
  EXPECT_THAT(StepTexts(*cpu), Not(Contains(HasSubstr("x"))));
}

TEST_F(DeviceTypesTest, WhereNoneOfItsTypeIsLeftItBeginsAnew) {
  FakeScript* cpu = harness_.AddModel("fake", "cpu");
  LoseItsDevice();
  EXPECT_EQ(DeviceOf(x_.get()), "cpu");
  EXPECT_THAT(StepTexts(*cpu), ElementsAre("x0", "x1", "x2", "x3"));
}

TEST_F(DeviceTypesTest, WhatIsParkedBeginsAnewWhenTheLastOfItsTypeIsLost) {
  ParkX();
  FakeScript* cpu = harness_.AddModel("fake", "cpu");
  gpu_->Fail("urgent", Stage::kStep, absl::AbortedError("the context is lost"), 1);
  gpu_->step_gate()->Open();
  EXPECT_TRUE(urgent_->Result().ok());
  EXPECT_EQ(DeviceOf(x_.get()), "cpu");
  EXPECT_THAT(StepTexts(*cpu), Contains("x0"));
}

TEST_F(DeviceTypesTest, WhatRunsBeginsAnewWhenItsModelLeavesTheLastDeviceOfItsType) {
  FakeScript* cpu = harness_.AddModel("fake", "cpu");
  ASSERT_TRUE(harness_.scheduler->RemoveModel("fake", "cuda:0", Removal::kWhenDone, [](const absl::Status&) {}).ok());
  gpu_->step_gate()->Open();
  EXPECT_EQ(DeviceOf(x_.get()), "cpu");
  EXPECT_THAT(StepTexts(*cpu), ElementsAre("x0", "x1", "x2", "x3"));
  harness_.Settle();
  EXPECT_EQ(gpu_->live_jobs() + cpu->live_jobs(), 0);
}

TEST_F(DeviceTypesTest, WhatIsParkedBeginsAnewWhenItsModelLeavesTheLastDeviceOfItsType) {
  ParkX();
  FakeScript* cpu = harness_.AddModel("fake", "cpu");
  ASSERT_TRUE(harness_.scheduler->RemoveModel("fake", "cuda:0", Removal::kWhenDone, [](const absl::Status&) {}).ok());
  gpu_->step_gate()->Open();
  EXPECT_EQ(DeviceOf(x_.get()), "cpu");
  EXPECT_THAT(StepTexts(*cpu), Contains("x0"));
}

// The other is idle, and no use to it.
TEST(MixedDevicesTest, NothingIsParkedForADeviceOfAnotherType) {
  SchedulerOptions options;
  options.max_batch = 1;
  options.max_resident = 2;
  SchedulerHarness harness(options);
  FakeScript* gpu = harness.AddModel("fake", "cuda:0");
  gpu->step_gate()->Close();
  const auto x = harness.Submit(WithPriority(Deterministic(SchedulerHarness::Request("x")), RequestPriority::kBatch));
  gpu->step_gate()->AwaitBlocked();
  // Both come before the other device is there.
  const auto urgent =
      harness.Submit(WithPriority(Deterministic(SchedulerHarness::Request("urgent")), RequestPriority::kInteractive));
  gpu->step_gate()->Allow(1);
  gpu->step_gate()->AwaitArrivals(2);
  FakeScript* cpu = harness.AddModel("fake", "cpu");
  gpu->step_gate()->Open();
  EXPECT_TRUE(urgent->Result().ok());
  EXPECT_EQ(DeviceOf(x.get()), "cuda:0");
  EXPECT_THAT(StepTexts(*cpu), IsEmpty());
  EXPECT_THAT(harness.observer.counts(), IsEmpty());
}

// On the CPU a batch changes no bits; that it came first says nothing of the GPU.
TEST(MixedDevicesTest, AnImageThatMustBeAloneOnOneDeviceSharesStepsOnNone) {
  SchedulerOptions options;
  options.core.policy = "fifo";  // shares whatever it may
  SchedulerHarness harness(options);
  std::vector<FakeScript*> scripts;
  for (const char* device : {"cpu", "cuda:0"}) {
    const auto script = std::make_shared<FakeScript>();
    harness.scripts[device] = script;
    scripts.push_back(script.get());
    ASSERT_TRUE(harness
                    .Load("fake", device,
                          [&, script]() -> absl::StatusOr<std::unique_ptr<Engine>> {
                            ModelInfo info = FakeModelInfo("fake", device);
                            info.batch_invariant = device == std::string("cpu");
                            return std::make_unique<FakeEngine>(info, script, &harness.clock);
                          })
                    .ok());
  }
  EXPECT_TRUE(harness.Submit(Deterministic(SchedulerHarness::Request("x", 2, 6)))->Result().ok());
  for (const FakeScript* script : scripts) {
    EXPECT_THAT(StepTexts(*script), Each(Not(HasSubstr(" ")))) << "a step of several";
  }
}

}  // namespace
}  // namespace fresco
