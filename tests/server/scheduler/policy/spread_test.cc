// Images spread over the devices that are free: steps are shared only where there are more images than those.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "server/scheduler/policy/scheduling_core.h"
#include "server/scheduler/policy/stage_times.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int kTokens = 100, kPictureTokens = 80;

// Devices on which a second image makes a step of a second longer by a fifth.
class SpreadTest : public ::testing::Test {
 protected:
  SpreadTest() {
    for (int rows = 1; rows <= 16; ++rows) {
      costs_.RecordStep(costs_.Curve("m", kTokens), rows, absl::Seconds(1 + 0.2 * (rows - 1)));
      costs_.RecordStep(costs_.Curve("other", kTokens), rows, absl::Seconds(1 + 0.2 * (rows - 1)));
    }
    costs_.RecordStep(DecodeCurve(&costs_, "m", kPictureTokens), 1, absl::Seconds(5));
    core_ = *SchedulingCore::Create({}, &costs_);
  }

  DeviceId AddDevice(int type = 0, const char* model = "m") {
    DeviceLimits limits;
    limits.type = type;
    const DeviceId device = core_->AddDevice(limits);
    core_->SetLoaded(device, core_->Model(model), true);
    return device;
  }
  std::vector<JobId> Add(int images, int steps = 20, bool one_type = false, const char* model = "m") {
    RequestedJobs request;
    request.model = core_->Model(model);
    request.sequence = sequence_++;
    request.images.assign(images, {"key", kTokens, 1, steps, 10, 0, kPictureTokens, false, one_type});
    return core_->Add(request, now_);
  }
  Decision Decide(DeviceId device) {
    return core_->Decide(device, now_,
                         [](absl::Span<const JobId> images) { return std::vector<int>(images.size(), 0); });
  }
  std::vector<JobId> Step(DeviceId device) {
    return core_->StepDone(device, absl::Seconds(1), SchedulingCore::DoneJobs::kKeep);
  }

  CostModel costs_;
  std::unique_ptr<SchedulingCore> core_;
  const absl::Time now_ = absl::FromUnixSeconds(1000);
  int64_t sequence_ = 0;
};

TEST_F(SpreadTest, EachFreeDeviceTakesAsMany) {
  for (int i = 0; i < 3; ++i) AddDevice();
  Add(7);
  EXPECT_THAT(Decide(0).batch, SizeIs(3));
  EXPECT_THAT(Decide(1).batch, SizeIs(2));
  EXPECT_THAT(Decide(2).batch, SizeIs(2));
}

TEST_F(SpreadTest, NoStepIsSharedWhileAnotherDeviceIsFree) {
  for (int i = 0; i < 3; ++i) AddDevice();
  Add(1);
  Add(1);
  EXPECT_THAT(Decide(0).batch, SizeIs(1));
  EXPECT_THAT(Decide(1).batch, SizeIs(1));
}

TEST_F(SpreadTest, ABatchPartsWhenADeviceBecomesFree) {
  AddDevice();
  AddDevice();
  const JobId shortest = Add(1, 1).front();
  ASSERT_THAT(Decide(1).batch, ElementsAre(shortest));
  const std::vector<JobId> pair = Add(2);
  ASSERT_THAT(Decide(0).batch, SizeIs(2));
  Step(0);
  Step(1);
  ASSERT_THAT(Decide(1).decode, ElementsAre(shortest));
  core_->Remove(shortest);
  ASSERT_THAT(Decide(1).batch, IsEmpty());
  const Decision next = Decide(0);
  EXPECT_THAT(next.batch, ElementsAre(pair[0]));
  ASSERT_THAT(next.preempt, ElementsAre(pair[1]));
  core_->Parked(pair[1], now_);
  EXPECT_THAT(Decide(1).batch, ElementsAre(pair[1]));
}

// What is decoded between steps keeps a device as a step does.
TEST_F(SpreadTest, ADeviceThatDecodesIsNotFree) {
  AddDevice();
  AddDevice();
  const JobId first = Add(1, 1).front();
  ASSERT_THAT(Decide(1).batch, ElementsAre(first));
  Step(1);
  ASSERT_THAT(Decide(1).decode, ElementsAre(first));
  Add(2);
  EXPECT_THAT(Decide(0).batch, SizeIs(2));
}

TEST_F(SpreadTest, AFreeDeviceWithoutTheModelIsNone) {
  AddDevice();
  AddDevice(0, "other");
  Add(4);
  EXPECT_THAT(Decide(0).batch, SizeIs(4));
}

TEST_F(SpreadTest, AFreeDeviceOfATypeThatTheImagesMayNotGoToIsNone) {
  for (const int type : {0, 1}) {
    core_ = *SchedulingCore::Create({}, &costs_);
    AddDevice();
    AddDevice(type);
    Add(1);
    ASSERT_THAT(Decide(1).batch, SizeIs(1));
    const std::vector<JobId> pair = Add(2, 20, /*one_type=*/true);
    ASSERT_THAT(Decide(0).batch, SizeIs(2));
    Step(0);
    const JobId gone = core_->index().device(1).resident.front();
    core_->Remove(gone);
    Step(1);
    ASSERT_THAT(Decide(1).batch, IsEmpty());
    EXPECT_THAT(Decide(0).batch, SizeIs(type == 0 ? 1 : 2)) << type;
  }
}

}  // namespace
}  // namespace fresco
