// What of the devices' time each tenant is told to have used.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

constexpr absl::Duration kPrepare = absl::Seconds(2), kStep = absl::Seconds(3), kFinish = absl::Seconds(1);

GenerationRequest RequestOf(const std::string& tenant, float guidance_scale, int images) {
  GenerationRequest request = SchedulerHarness::Request(tenant, 4, images);
  request.tenant = tenant;
  for (ImageSpec& spec : request.images) spec.guidance_scale = guidance_scale;
  return request;
}

absl::Duration BusyTime(const FakeScript& script) {
  absl::Duration busy;
  for (const std::string& call : script.calls()) {
    busy += call.starts_with("prepare") ? kPrepare : call.starts_with("step") ? kStep : kFinish;
  }
  return busy;
}

TEST(UsageTest, TheDevicesTimeIsSharedOutByWhatEachImageTakes) {
  SchedulerOptions options;
  options.costs = FlatCosts(kStep);  // so that all share steps
  SchedulerHarness harness(options);
  FakeScript* const script = harness.AddModel();
  script->SetDurations(kPrepare, kStep, kFinish);
  script->step_gate()->Close();
  auto first = harness.Submit(RequestOf("plain", 1, 1));
  auto second = harness.Submit(RequestOf("guided", 4, 2));
  script->step_gate()->Open();
  harness.Settle();
  const Usage plain = harness.observer.usage("plain"), guided = harness.observer.usage("guided");
  EXPECT_EQ(plain.images, 1);
  EXPECT_EQ(plain.steps, 4);
  EXPECT_EQ(guided.images, 2);
  EXPECT_EQ(guided.steps, 8);
  // Nothing of the device's time is lost, nor counted twice.
  EXPECT_NEAR(absl::ToDoubleSeconds(plain.device_time + guided.device_time), absl::ToDoubleSeconds(BusyTime(*script)),
              1e-6);
  // In a step together the guided images have four samples of five.
  EXPECT_GT(guided.device_time, 2 * plain.device_time);
}

// Who fails has used the device until then.
TEST(UsageTest, WhatWasNotFinishedCountsToo) {
  SchedulerHarness harness;
  FakeScript* const script = harness.AddModel();
  script->SetDurations(kPrepare, kStep, kFinish);
  script->Fail("a", FakeScript::Stage::kStep, absl::DataLossError("not a number"), 2);
  GenerationRequest request = RequestOf("a", 1, 1);
  auto reader = harness.Submit(request);
  harness.Settle();
  const Usage usage = harness.observer.usage("a");
  EXPECT_EQ(usage.images, 0);
  EXPECT_EQ(usage.steps, 2);
  EXPECT_EQ(usage.device_time, BusyTime(*script));
}

}  // namespace
}  // namespace fresco
