// What one model's queue does to requests for another: nothing where they share no device.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "server/scheduler/policy/scheduling_core.h"

namespace fresco {
namespace {

constexpr int kTokens = 1000;

// Devices with some of the models "a", "b" and "c"; steps of each take a second, whatever their number.
class Models {
 public:
  // Of each device the models that it has: {"a", "ab"}.
  explicit Models(const std::vector<std::string>& devices, const std::string& policy = "deadline-fair") {
    for (const char* name : {"a", "b", "c"}) {
      for (int rows = 1; rows <= 16; ++rows) costs_.RecordStep(costs_.Curve(name, kTokens), rows, absl::Seconds(rows));
    }
    CoreOptions options;
    options.policy = policy;
    core_ = *SchedulingCore::Create(options, &costs_);
    for (const std::string& models : devices) {
      const DeviceId device = core_->AddDevice({});
      for (char model : models) core_->SetLoaded(device, core_->Model(std::string(1, model)), true);
    }
  }

  Admission Ask(const char* model, PriorityClass priority = PriorityClass::kBatch, int steps = 1) {
    return core_->Admit(Request(model, priority, steps), now_);
  }
  void Add(const char* model, PriorityClass priority = PriorityClass::kBatch, int steps = 1) {
    core_->Add(Request(model, priority, steps), now_);
  }
  // Until it is refused: seconds of work that have been taken.
  int Fill(const char* model, PriorityClass priority = PriorityClass::kBatch) {
    int taken = 0;
    while (taken < 10000 && Ask(model, priority).refusal == Admission::Refusal::kNone) {
      Add(model, priority);
      ++taken;
    }
    return taken;
  }
  size_t Decide(DeviceId device) { return core_->Decide(device, now_).batch.size(); }
  double Wait(const char* model, PriorityClass priority = PriorityClass::kBatch) {
    return absl::ToDoubleSeconds(Ask(model, priority).wait);
  }
  SchedulingCore* core() { return core_.get(); }

 private:
  RequestedJobs Request(const char* model, PriorityClass priority, int steps) {
    RequestedJobs request;
    request.tenant = "";
    request.priority = priority;
    request.model = core_->Model(model);
    request.sequence = sequence_++;
    request.images = {{"key", kTokens, 1, steps, 10}};
    return request;
  }

  CostModel costs_;
  std::unique_ptr<SchedulingCore> core_;
  const absl::Time now_ = absl::FromUnixSeconds(1000);
  int64_t sequence_ = 0;
};

class CompetingModelsTest : public ::testing::TestWithParam<const char*> {};

TEST_P(CompetingModelsTest, AQueueForAnotherModelRefusesNobodyWhoseDeviceIsFree) {
  for (PriorityClass priority : {PriorityClass::kInteractive, PriorityClass::kStandard, PriorityClass::kBatch}) {
    Models models({"a", "b"}, GetParam());
    EXPECT_LT(models.Fill("a", priority), 10000);
    const Admission other = models.Ask("b", priority);
    EXPECT_EQ(other.refusal, Admission::Refusal::kNone) << other.message;
    EXPECT_EQ(other.wait, absl::ZeroDuration());
  }
}

TEST_P(CompetingModelsTest, AQueueForAnotherModelLengthensNobodysWait) {
  Models models({"a", "b"}, GetParam());
  models.Add("b", PriorityClass::kBatch, 10);
  models.Decide(1);
  const double wait = models.Wait("b");
  EXPECT_NEAR(wait, 10, 0.1);
  models.Add("a", PriorityClass::kInteractive, 30);
  models.Decide(0);
  models.Fill("a", PriorityClass::kInteractive);
  models.Fill("a", PriorityClass::kBatch);
  EXPECT_EQ(models.Wait("b"), wait);
}

TEST_P(CompetingModelsTest, ModelsOfOneDeviceFillOneQueue) {
  Models models({"ab"}, GetParam());
  EXPECT_NEAR(models.Fill("a"), 120, 1);  // a fifth of ten minutes
  EXPECT_EQ(models.Ask("b").refusal, Admission::Refusal::kQueueFull);
}

// Half of what waits for two devices falls to the one that both have.
TEST_P(CompetingModelsTest, AModelWithDevicesOfItsOwnTooLeavesOthersHalfOfThoseItShares) {
  Models models({"a", "ab"}, GetParam());
  for (int i = 0; i < 120; ++i) models.Add("a");
  EXPECT_NEAR(models.Fill("b"), 60, 1);
  EXPECT_NEAR(models.Fill("a"), 60, 1);
}

TEST_P(CompetingModelsTest, AModelThatLeavesADeviceCompetesForItNoMore) {
  Models models({"ab", "a"}, GetParam());
  models.core()->SetLoaded(0, models.core()->Model("a"), false);
  models.Fill("a");
  EXPECT_EQ(models.Ask("b").refusal, Admission::Refusal::kNone);
  models.core()->SetLoaded(0, models.core()->Model("a"), true);
  models.core()->RemoveDevice(1);
  EXPECT_EQ(models.Ask("b").refusal, Admission::Refusal::kQueueFull);
}

INSTANTIATE_TEST_SUITE_P(Policies, CompetingModelsTest, ::testing::Values("fifo", "dynamic", "deadline-fair"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace fresco
