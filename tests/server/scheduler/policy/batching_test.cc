// How large deadline-fair makes its batches where batches pay, on devices as they are: with step times that change with
// what else the machine does, and that do not grow evenly with the batch.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "server/scheduler/policy/scheduling_core.h"

namespace fresco {
namespace {

constexpr char kModel[] = "m";
constexpr int kTokens = 109;

// A device and a virtual clock. Images have guidance, so two rows each.
class Device {
 public:
  // Seconds of a step of so many images at so many seconds since the start.
  using StepTime = double (*)(size_t images, double at);

  explicit Device(StepTime step) : step_(step) {
    core_ = *SchedulingCore::Create({}, &costs_);
    model_ = core_->Model(kModel);
    device_ = core_->AddDevice({});
    core_->SetLoaded(device_, model_, true);
  }

  // As a load measures it.
  void Measure(size_t images) {
    costs_.RecordStep(costs_.Curve(kModel, kTokens), static_cast<int>(2 * images), absl::Seconds(step_(images, 0)));
  }

  void Add(int steps) {
    RequestedJobs request;
    request.model = model_;
    request.sequence = sequence_++;
    request.images = {{"key", kTokens, 2, steps, 1000}};
    core_->Add(request, Now());
  }

  // The number of images in it; 0: nothing is left to do.
  size_t Step() {
    const Decision decision = core_->Decide(device_, Now());
    for (JobId job : decision.preempt) core_->Parked(job, Now());
    if (decision.batch.empty()) return 0;
    const double seconds = step_(decision.batch.size(), seconds_);
    seconds_ += seconds;
    core_->StepDone(device_, absl::Seconds(seconds));
    return decision.batch.size();
  }

  // Images in a step, the mean until nothing is left.
  double MeanBatch() {
    double images = 0, steps = 0;
    for (size_t batch = Step(); batch > 0; batch = Step(), ++steps) images += static_cast<double>(batch);
    return images / steps;
  }

 private:
  absl::Time Now() const { return absl::UnixEpoch() + absl::Seconds(seconds_); }

  const StepTime step_;
  CostModel costs_;
  std::unique_ptr<SchedulingCore> core_;
  ModelId model_ = 0;
  DeviceId device_ = 0;
  int64_t sequence_ = 0;
  double seconds_ = 0;
};

// The demo model at 64x64 on a CPU (docs/SCHEDULING.md, "On the real engine"): 14.2 ms alone, 51 ms for eight.
double DemoStep(size_t images) {
  return 0.0089 + 0.0053 * static_cast<double>(images);
}

// Something else takes a third of the machine for 0.7 s of every 1.7.
double SharedStep(size_t images, double at) {
  return DemoStep(images) * (std::fmod(at, 1.7) < 1 ? 1 : 1.5);
}

TEST(BatchingTest, ManyAtOnceShareStepsThoughTheDeviceIsSlowNowAndThen) {
  Device device(SharedStep);
  for (size_t images : {1, 2}) device.Measure(images);
  for (int round = 0; round < 10; ++round) {
    for (int alone = 0; alone < 16; ++alone) {
      device.Add(20);
      EXPECT_EQ(device.MeanBatch(), 1);
    }
    for (int i = 0; i < 16; ++i) device.Add(20);
    EXPECT_GE(device.MeanBatch(), 7) << "round " << round;
  }
}

// The first step of two images is made while something else has the machine, and says that batches do not pay.
TEST(BatchingTest, OneBadMeasurementIsForgotten) {
  Device device([](size_t images, double at) { return (at == 0 && images > 1 ? 3 : 1) * DemoStep(images); });
  for (size_t images : {1, 2}) device.Measure(images);
  double last = 0;
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 16; ++i) device.Add(20);
    last = device.MeanBatch();
  }
  EXPECT_GE(last, 7);
}

// Two images in a wave of thread blocks: a third costs as much as a fourth with it, and more than by itself.
double StepInWaves(size_t images, double /*at*/) {
  return 0.006 + 0.011 * static_cast<double>((images + 1) / 2);
}

TEST(BatchingTest, AnImageThatDoesNotPayIsTakenForTheSakeOfThoseThatThenDo) {
  Device device(StepInWaves);
  for (size_t images = 1; images <= 8; ++images) {
    for (int i = 0; i < 10; ++i) device.Measure(images);
  }
  for (int i = 0; i < 16; ++i) device.Add(20);
  EXPECT_EQ(device.Step(), 8u);
}

}  // namespace
}  // namespace fresco
