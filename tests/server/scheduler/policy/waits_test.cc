// What requests are told of how long they will wait.
#include <gtest/gtest.h>

#include "server/scheduler/policy/scheduling_core.h"

namespace fresco {
namespace {

RequestedJobs Request(int64_t sequence) {
  RequestedJobs request;
  request.sequence = sequence;
  request.images = {{"key", 1000, 1, 100, 10}};
  return request;
}

// It begins anew, as its device was lost, long after it came: that is no wait of which others learn.
TEST(WaitsTest, WhatBeginsAnewSaysNothingOfHowLongOthersWait) {
  CostModel costs;
  costs.RecordStep(costs.Curve("m", 1000), 1, absl::Seconds(1));
  const auto core = *SchedulingCore::Create({}, &costs);
  core->SetLoaded(core->AddDevice({}), core->Model("m"), true);
  absl::Time now = absl::FromUnixSeconds(1000);
  const JobId job = core->Add(Request(0), now).front();
  ASSERT_EQ(core->Decide(0, now).start.size(), 1u);
  const absl::Duration wait = core->Admit(Request(1), now).wait;
  EXPECT_GT(wait, absl::ZeroDuration());
  now += absl::Minutes(4);
  core->Displace(job, 100, now);
  ASSERT_EQ(core->Decide(0, now).start.size(), 1u);
  EXPECT_EQ(core->Admit(Request(1), now).wait, wait);
}

}  // namespace
}  // namespace fresco
