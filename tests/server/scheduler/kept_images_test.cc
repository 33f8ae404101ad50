// What is kept of an image for the loss of its device: one copy of it, and freed without the dispatcher's lock.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "server/scheduler/scheduler.h"
#include "tests/support/forwarding_engine.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

// Of this test's snapshots, which nobody goes on with.
struct Copies {
  std::atomic<int> live = 0;
  std::atomic<int> made = 0;
  std::function<void()> on_free = [] {};
};

class Copy final : public ImageJob {
 public:
  Copy(const ImageJob& of, Copies* copies) : ImageJob(of.spec()), copies_(*copies) {
    step_ = of.step();
    ++copies_.live;
    ++copies_.made;
  }
  ~Copy() override {
    --copies_.live;
    copies_.on_free();
  }

 private:
  Copies& copies_;
};

class CopyingEngine final : public ForwardingEngine {
 public:
  CopyingEngine(std::unique_ptr<Engine> engine, Copies* copies)
      : ForwardingEngine(std::move(engine)), copies_(*copies) {}
  absl::StatusOr<std::unique_ptr<ImageJob>> Snapshot(ImageJob& job) override {
    return std::make_unique<Copy>(job, &copies_);
  }

 private:
  Copies& copies_;
};

// "x" is before its third step on "a"; "b", which has the model too, is busy.
class KeptImagesTest : public ::testing::Test {
 protected:
  KeptImagesTest() {
    harness_.scripts["a"] = a_;
    const absl::Status loaded = harness_.Load("fake", "a", [this]() -> absl::StatusOr<std::unique_ptr<Engine>> {
      return std::make_unique<CopyingEngine>(
          std::make_unique<FakeEngine>(FakeModelInfo("fake", "a"), a_, &harness_.clock), &copies_);
    });
    EXPECT_TRUE(loaded.ok());
    // Whoever is freed with the dispatcher's lock held stands still here.
    copies_.on_free = [this] { harness_.scheduler->Snapshot(); };
    a_->step_gate()->Close();
    x_ = Submit("x", RequestPriority::kBatch);
    a_->step_gate()->AwaitBlocked();
    FakeScript* const b = harness_.AddModel("fake", "b");
    b->step_gate()->Close();
    busy_ = Submit("busy", RequestPriority::kBatch);
    b->step_gate()->AwaitBlocked();
    a_->step_gate()->Allow(2);
    a_->step_gate()->AwaitArrivals(3);
    EXPECT_EQ(copies_.live, 1);
  }

  ~KeptImagesTest() override { harness_.OpenGates(); }

  static SchedulerOptions OneAtATime() {
    SchedulerOptions options;
    options.max_batch = options.max_resident = 1;
    return options;
  }

  std::unique_ptr<EventReader> Submit(const std::string& id, RequestPriority priority) {
    GenerationRequest request = SchedulerHarness::Request(id);
    request.priority = priority;
    return harness_.Submit(std::move(request));
  }

  Copies copies_;
  const std::shared_ptr<FakeScript> a_ = std::make_shared<FakeScript>();
  SchedulerHarness harness_{OneAtATime()};
  std::unique_ptr<EventReader> x_, busy_;
};

TEST_F(KeptImagesTest, GoesWithTheImageWhenItIsDrawn) {
  a_->step_gate()->Open();
  EXPECT_TRUE(x_->Result().ok());
  EXPECT_EQ(copies_.live, 0);
  EXPECT_GE(copies_.made, 2);
}

TEST_F(KeptImagesTest, GoesWithTheImageWhenItIsCancelled) {
  ASSERT_TRUE(harness_.scheduler->Cancel("", "x", absl::OkStatus()).ok());
  a_->step_gate()->Open();
  EXPECT_EQ(x_->Result().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(copies_.live, 0);
}

TEST_F(KeptImagesTest, AnImageInHostMemoryIsThereOnce) {
  const auto urgent = Submit("urgent", RequestPriority::kInteractive);
  a_->step_gate()->Allow(1);
  a_->step_gate()->AwaitArrivals(4);  // "urgent" has its place
  EXPECT_EQ(harness_.observer.counts()["fake preempted on a"], 1);
  EXPECT_EQ(copies_.live, 0);
  a_->step_gate()->Open();
  EXPECT_TRUE(urgent->Result().ok());
  EXPECT_TRUE(x_->Result().ok());
}

}  // namespace
}  // namespace fresco
