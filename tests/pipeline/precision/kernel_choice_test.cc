#include "pipeline/precision/kernel_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

// A device whose work takes its time when somebody waits for it.
class FakeDevice {
 public:
  // Runs take these, one after the other, and then the last for good.
  KernelCandidate Kernel(const std::string& name, std::vector<absl::Duration> takes) {
    auto run = [this, takes, index = size_t{0}]() mutable {
      queued_ += takes[std::min(index++, takes.size() - 1)];
      ++runs;
      return absl::OkStatus();
    };
    return {name, run, nullptr};
  }

  KernelClock clock() {
    return {&clock_, [this] {
              clock_.Advance(queued_ + absl::Microseconds(8));  // waiting takes time itself
              queued_ = absl::ZeroDuration();
              return absl::OkStatus();
            }};
  }

  int runs = 0;

 private:
  FakeClock clock_;
  absl::Duration queued_;
};

KernelCandidate Broken(const std::string& name, const std::string& why) {
  return {name, [why] { return absl::UnimplementedError(why); }, nullptr};
}

TEST(MeasureKernels, TheFastestWins) {
  FakeDevice device;
  const auto measured = MeasureKernels(
      {device.Kernel("slow", {absl::Microseconds(300)}), device.Kernel("fast", {absl::Microseconds(100)}),
       device.Kernel("middling", {absl::Microseconds(200)})},
      device.clock());
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->winner, "fast");
  ASSERT_EQ(measured->seconds.size(), 3u);
  EXPECT_NEAR(measured->seconds.at("slow"), 300e-6, 20e-6);
  EXPECT_NEAR(measured->seconds.at("fast"), 100e-6, 5e-6);
}

// What is made at the first use (a kernel's module, a plan of cuDNN's) takes a second and says nothing of the others.
TEST(MeasureKernels, TheFirstRunDoesNotCount) {
  FakeDevice device;
  const auto measured = MeasureKernels({device.Kernel("steady", {absl::Microseconds(150)}),
                                        device.Kernel("starts slowly", {absl::Seconds(1), absl::Microseconds(100)})},
                                       device.clock());
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->winner, "starts slowly");
}

// A neighbour that holds the device up during a round or two must not decide.
TEST(MeasureKernels, AFewSlowRunsDoNotCount) {
  FakeDevice device;
  std::vector<absl::Duration> disturbed(40, absl::Milliseconds(1));
  disturbed[3] = disturbed[6] = absl::Milliseconds(50);
  const auto measured = MeasureKernels(
      {device.Kernel("steady", {absl::Milliseconds(2)}), device.Kernel("disturbed", disturbed)}, device.clock());
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->winner, "disturbed");
}

TEST(MeasureKernels, TheFirstStaysUntilItIsBeatenClearly) {
  FakeDevice device;
  const auto close = MeasureKernels(
      {device.Kernel("usual", {absl::Microseconds(1000)}), device.Kernel("a little faster", {absl::Microseconds(990)})},
      device.clock());
  EXPECT_EQ(close.value().winner, "usual");
  const auto clear = MeasureKernels(
      {device.Kernel("usual", {absl::Microseconds(1000)}), device.Kernel("a little faster", {absl::Microseconds(950)}),
       device.Kernel("faster still", {absl::Microseconds(945)})},
      device.clock());
  EXPECT_EQ(clear.value().winner, "faster still");
}

TEST(MeasureKernels, WhatDoesNotTakeTheTaskIsLeftOut) {
  FakeDevice device;
  const auto measured = MeasureKernels(
      {Broken("new", "not on this device"), device.Kernel("old", {absl::Microseconds(10)})}, device.clock());
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->winner, "old");
  EXPECT_THAT(measured->failed, ElementsAre(Pair("new", "not on this device")));
}

TEST(MeasureKernels, AWrongResultNeverWins) {
  FakeDevice device;
  KernelCandidate wrong = device.Kernel("wrong", {absl::Microseconds(1)});
  wrong.check = [] { return absl::DataLossError("differs by 30 %"); };
  KernelCandidate right = device.Kernel("right", {absl::Microseconds(100)});
  right.check = [] { return absl::OkStatus(); };
  const auto measured = MeasureKernels({right, wrong}, device.clock());
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->winner, "right");
  EXPECT_THAT(measured->failed, ElementsAre(Pair("wrong", "differs by 30 %")));
}

// As on a CPU.
TEST(MeasureKernels, OneAloneIsNotRun) {
  FakeDevice device;
  const auto measured = MeasureKernels({device.Kernel("only", {absl::Seconds(1)})}, device.clock());
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->winner, "only");
  EXPECT_THAT(measured->seconds, IsEmpty());
  EXPECT_EQ(device.runs, 0);
}

TEST(MeasureKernels, WhereNoneWorksItSaysWhy) {
  FakeDevice device;
  const auto measured = MeasureKernels({Broken("a", "wants fp16"), Broken("b", "wants bf16")}, device.clock());
  EXPECT_EQ(measured.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(measured.status().message()), AllOf(HasSubstr("a: wants fp16"), HasSubstr("b: wants bf16")));
}

TEST(MeasureKernels, ALostDeviceIsAnError) {
  FakeDevice device;
  KernelClock clock = device.clock();
  clock.synchronize = [] { return absl::AbortedError("the device is gone"); };
  const auto measured =
      MeasureKernels({device.Kernel("a", {absl::Microseconds(1)}), device.Kernel("b", {absl::Microseconds(1)})}, clock);
  EXPECT_FALSE(measured.ok());
  EXPECT_THAT(std::string(measured.status().message()), HasSubstr("the device is gone"));
}

TEST(SizeSteps, TheNearestByRatio) {
  for (const int64_t step : SizeSteps()) EXPECT_EQ(NearestSizeStep(step), step);
  EXPECT_EQ(NearestSizeStep(1), SizeSteps().front());
  EXPECT_EQ(NearestSizeStep(2 * (4096 + 333)), 8192);  // a guided image of 1024² and its texts
  EXPECT_EQ(NearestSizeStep(666), 768);
  EXPECT_EQ(NearestSizeStep(1 << 20), SizeSteps().back());
}

KernelTask Product(int64_t rows) {
  return {"fp8+bias", "bf16", {2432, 7296, rows}};
}
MeasuredKernel Won(const std::string& winner) {
  return {winner, {}, {}};
}

TEST(KernelChoices, KnowsTheNearestStepOrTheNextBelow) {
  KernelChoices choices;
  EXPECT_EQ(choices.WinnerOf(Product(4096)), nullptr);
  choices.Set(Product(1024), Won("small"));
  choices.Set(Product(4096), Won("large"));
  choices.Set({"fp8+bias", "fp16", {2432, 7296, 512}}, Won("another type"));
  choices.Set({"fp8", "bf16", {2432, 7296, 512}}, Won("without bias"));
  EXPECT_EQ(*choices.WinnerOf(Product(1000)), "small");
  EXPECT_EQ(*choices.WinnerOf(Product(2000)), "small");
  EXPECT_EQ(*choices.WinnerOf(Product(4429)), "large");
  EXPECT_EQ(*choices.WinnerOf(Product(100000)), "large") << "what did not fit the memory was not measured";
  EXPECT_EQ(choices.WinnerOf(Product(512)), nullptr);
  EXPECT_EQ(choices.WinnerOf({"fp8+bias", "bf16", {2432, 9728, 4096}}), nullptr);
}

TEST(KernelChoices, WhatIsWantedIsMissingUntilItIsKnown) {
  KernelChoices choices;
  EXPECT_THAT(choices.Missing(), IsEmpty());
  choices.Want(Product(77));
  choices.Want(Product(78));
  EXPECT_EQ(choices.Missing().size(), SizeSteps().size());
  for (const KernelTask& task : choices.Missing()) choices.Set(task, Won("a"));
  EXPECT_THAT(choices.Missing(), IsEmpty());
}

// A picture that is being drawn goes on with the kernels that it began with.
TEST(KernelChoices, WhatIsKnownStays) {
  KernelChoices choices;
  choices.Set(Product(4096), Won("first"));
  const std::string* const winner = choices.WinnerOf(Product(4096));
  choices.Set(Product(4096), Won("second"));
  choices.Set(Product(8192), Won("third"));
  EXPECT_EQ(*winner, "first");
  EXPECT_EQ(choices.WinnerOf(Product(4096)), winner);
}

TEST(KernelChoices, PinnedThreadsAskNobody) {
  KernelChoices choices;
  choices.Set(Product(4096), Won("fast"));
  {
    const PinnedKernels pinned(true);
    const PinnedKernels inner(false);
    EXPECT_EQ(choices.WinnerOf(Product(4096)), nullptr);
    std::thread([&] { EXPECT_NE(choices.WinnerOf(Product(4096)), nullptr); }).join();
  }
  EXPECT_NE(choices.WinnerOf(Product(4096)), nullptr);
  const PinnedKernels not_pinned(false);
  EXPECT_NE(choices.WinnerOf(Product(4096)), nullptr);
}

}  // namespace
}  // namespace fresco
