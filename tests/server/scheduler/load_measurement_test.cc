// A measurement by itself: every call of the device is watched, and the one with which the device is lost is the last
// thing it does.
#include "server/scheduler/load_measurement.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "server/scheduler/policy/stage_times.h"
#include "tests/support/fake_engine.h"
#include "tests/support/forwarding_engine.h"

namespace fresco {
namespace {

class AskedClock final : public Clock {
 public:
  absl::Time Now() const override {
    ++asked_;
    return absl::UnixEpoch();
  }
  absl::Time WallTime() const override { return Now(); }
  void WaitUntil(CondVar* /*condition*/, Mutex* /*mutex*/, absl::Time /*deadline*/) override {}
  int asked() const { return asked_; }

 private:
  mutable int asked_ = 0;
};

class AskedEngine final : public ForwardingEngine {
 public:
  AskedEngine(std::unique_ptr<Engine> engine, const bool* watched)
      : ForwardingEngine(std::move(engine)), watched_(*watched) {}
  int64_t TakePeakBytes() override {
    EXPECT_TRUE(watched_);
    return ForwardingEngine::TakePeakBytes();
  }
  std::vector<absl::Status> Step(absl::Span<ImageJob* const> batch) override {
    EXPECT_TRUE(watched_);
    return ForwardingEngine::Step(batch);
  }
  absl::StatusOr<Image> Finish(ImageJob& job) override {
    EXPECT_TRUE(watched_);
    return ForwardingEngine::Finish(job);
  }

 private:
  const bool& watched_;
};

// With the device lost in the call of that number, from 1: how many were made, and how often the clock was asked after
// it.
struct Measured {
  int calls = 0;
  int asked_after = 0;
};

Measured MeasureWithLossIn(int fatal) {
  AskedClock clock;
  bool watched = false;
  AskedEngine engine(std::make_unique<FakeEngine>(FakeModelInfo(), std::make_shared<FakeScript>(), nullptr), &watched);
  Measured measured;
  int asked = 0;
  LoadMeasurement measurement;
  measurement.limit = absl::Minutes(5);
  measurement.watched = [&](DeviceCall, int64_t, absl::FunctionRef<absl::Status()> call) {
    ++measured.calls;
    watched = true;
    const absl::Status status = call();
    watched = false;
    asked = clock.asked();
    return measured.calls < fatal ? status : absl::AbortedError("the device is lost");
  };
  std::vector<std::unique_ptr<ImageJob>> jobs;
  MeasureModel("fake", &engine, CostModel(), measurement, &clock, &jobs);
  measured.asked_after = clock.asked() - asked;
  return measured;
}

// The call may have hung, and have come back when the scheduler and its clock had gone.
TEST(MeasureModelTest, NothingIsDoneOnceTheDeviceIsLost) {
  const int all = MeasureWithLossIn(1000).calls;
  EXPECT_GT(all, 10);
  for (int fatal = 1; fatal <= all; ++fatal) {
    const Measured measured = MeasureWithLossIn(fatal);
    EXPECT_EQ(measured.calls, fatal);
    EXPECT_EQ(measured.asked_after, 0) << "of call " << fatal;
  }
}

// A call's time would be that of the step before.
TEST(MeasureModelTest, AStepThatGoesOnAfterItsCallIsMeasuredToItsEnd) {
  FakeClock clock;
  const auto script = std::make_shared<FakeScript>();
  script->SetStepsAhead();
  script->SetDurations(absl::Seconds(1), absl::Seconds(1), absl::Seconds(7));
  script->SetDurationsOfEach({}, absl::Seconds(1));
  FakeEngine engine(FakeModelInfo(), script, &clock);
  LoadMeasurement measurement;
  measurement.limit = absl::Minutes(5);
  measurement.watched = [](DeviceCall, int64_t, absl::FunctionRef<absl::Status()> call) { return call(); };
  std::vector<std::unique_ptr<ImageJob>> jobs;
  int steps = 0, decodes = 0;
  for (const MeasuredStep& step : MeasureModel("fake", &engine, CostModel(), measurement, &clock, &jobs)) {
    if (step.model == "fake") {
      EXPECT_DOUBLE_EQ(step.seconds, 1 + step.rows);
      ++steps;
    } else if (step.model == DecodeCurveName("fake")) {
      EXPECT_DOUBLE_EQ(step.seconds, 7);
      ++decodes;
    }
  }
  EXPECT_GE(steps, 3);
  EXPECT_GE(decodes, 1);
}

}  // namespace
}  // namespace fresco
