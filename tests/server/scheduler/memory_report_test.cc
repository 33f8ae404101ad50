#include "server/scheduler/memory_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/engine/memory_shortage.h"
#include "server/scheduler/scheduler.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Stage = FakeScript::Stage;

constexpr int64_t kMiB = 1 << 20;

MemoryReport FullDevice() {
  MemoryReport report;
  report.device = "cuda:0";
  report.total_bytes = 24 * 1024 * kMiB;
  report.free_bytes = 300 * kMiB;
  report.models = {{"large", "bf16", 16 * 1024 * kMiB}, {"medium", "fp8", 2560 * kMiB}};
  report.other_images = 3;
  report.other_state_bytes = 36 * kMiB;
  report.width = 1024;
  report.height = 768;
  report.state_bytes = 12 * kMiB;
  report.predicted_activation_bytes = 2048 * kMiB;
  report.seen_activation_bytes = 1536 * kMiB;
  return report;
}

TEST(MemoryReportTest, SaysWhoHoldsWhatAndWhatToChange) {
  EXPECT_EQ(Describe(FullDevice()),
            "cuda:0 has 24.0 GiB, of which 300.0 MiB are free; weights: large (bf16) 16.0 GiB, medium (fp8) 2.5 GiB; "
            "latents and texts of 3 other images: 36.0 MiB; this image's: 12.0 MiB; its step is predicted to need 2.0 "
            "GiB and had 1.5 GiB when memory ran out. To change: a smaller width and height than 1024 x 768, or "
            "precision: fp8, or a smaller scheduler.max_resident, or fewer models on this device");
}

TEST(MemoryReportTest, SuggestsNothingThatIsSoAlready) {
  MemoryReport report;
  report.device = "cpu";
  report.models = {{"medium", "fp8", 1000}};
  report.width = report.height = 512;
  report.state_bytes = 1536;
  EXPECT_EQ(Describe(report),
            "on cpu; weights: medium (fp8) 1000 bytes; this image's: 1.5 KiB. To change: a smaller width and height "
            "than 512 x 512");
  report.decoding = true;
  EXPECT_THAT(Describe(report), HasSubstr("512 x 512, or vae.tiling: always"));
}

TEST(MemoryReportTest, AnImageThatDoesNotFitAloneIsToldSo) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->SetDeviceMemory({8000, 2000});
  EXPECT_TRUE(harness.Submit(harness.Request("small", 2))->Result().ok());  // after which it is known what a step needs
  script->SetMemoryLimit(0);
  const absl::Status status = harness.Submit(harness.Request("large", 2))->Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  // What the fake engine says of itself: 1000 bytes of weights, 10 of an image's state, 1000 at the peak for each image
  // of a step, on a device of 8000 of which 2000 are free.
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(HasSubstr("image 0: no memory for so many"), HasSubstr("cpu has 7.8 KiB, of which 2.0 KiB are free"),
            HasSubstr("weights: fake (fp32) 1000 bytes"), HasSubstr("this image's: 10 bytes"),
            HasSubstr("its step is predicted to need 990 bytes and had 990 bytes when memory ran out"),
            HasSubstr("To change: a smaller width and height than 16 x 16"), Not(HasSubstr("other images"))));
}

TEST(MemoryReportTest, APictureThatDoesNotFitIsToldAboutTiles) {
  SchedulerHarness harness;
  harness.AddModel()->Fail("a", Stage::kFinish, absl::ResourceExhaustedError("no memory to decode"));
  const absl::Status status = harness.Submit(harness.Request("a"))->Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("no memory to decode"), HasSubstr("vae.tiling: always")));
}

// An engine that has said who holds the memory is not corrected: only what it cannot know is added.
TEST(MemoryReportTest, WhatTheEngineHasSaidIsPassedOn) {
  ShortageReport said;
  said.doing = "denoising";
  said.device = "cpu";
  said.shortage = MemoryShortage{1000, {}};
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->Fail("bad", Stage::kStep, ShortageError(said), 1);
  script->step_gate()->Close();
  auto good = harness.Submit(harness.Request("good", 4, 2));
  script->step_gate()->AwaitBlocked();
  auto bad = harness.Submit(harness.Request("bad", 4));
  script->step_gate()->Open();
  const absl::Status status = bad->Result();
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(Describe(said) + ". Beside it: 2 other images, with 20 bytes of latents and texts"),
                    Not(HasSubstr("To change"))));
  EXPECT_EQ(FindShortage(status), FindShortage(ShortageError(said)));
  EXPECT_TRUE(good->Result().ok());
}

TEST(MemoryReportTest, TheOtherImagesOfTheDeviceAreCounted) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->Fail("bad", Stage::kStep, absl::ResourceExhaustedError("no memory"), 1);
  script->step_gate()->Close();
  auto good = harness.Submit(harness.Request("good", 4, 2));
  script->step_gate()->AwaitBlocked();
  auto bad = harness.Submit(harness.Request("bad", 4));
  script->step_gate()->Open();
  EXPECT_THAT(std::string(bad->Result().message()), HasSubstr("latents and texts of 2 other images: 20 bytes"));
  EXPECT_TRUE(good->Result().ok());
}

}  // namespace
}  // namespace fresco
