// A picture of the model that ships does not depend on how it came to be drawn: alone, in any batch, with a pause, on
// another replica. Bit for bit in fp32 on a CPU; in the other precisions to 50 dB at least.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/engine/engine.h"
#include "pipeline/engine/spec_check.h"
#include "pipeline/image/similarity.h"
#include "tests/support/demo_model.h"

namespace fresco {
namespace {

constexpr double kLeastPsnr = 50;  // dB

// Of three sizes, the last in three shapes, with and without guidance, of different lengths and prompts.
std::vector<ImageSpec> Mixed() {
  return {DeterministicSpec("a red apple on a white background", 64, 96, 4, 4, 1),
          DeterministicSpec("a fox", 96, 64, 6, 1, 2),
          DeterministicSpec("a snail", 128, 80, 4, 4, 7),
          DeterministicSpec("a red apple on a white background", 48, 48, 5, 4, 8),
          DeterministicSpec("", 64, 96, 5, 7, 3),
          DeterministicSpec("a sunflower on a light blue background", 192, 32, 3, 2.5, 4),
          DeterministicSpec("a robot", 64, 96, 7, 0, 5),
          DeterministicSpec("a fox", 96, 64, 4, 3, 6)};
}

void Step(Engine* engine, const std::vector<ImageJob*>& batch) {
  for (const absl::Status& status : engine->Step(batch)) ASSERT_TRUE(status.ok()) << status;
}

Image Alone(Engine* engine, const ImageSpec& spec) {
  const auto job = engine->Prepare(spec).value();
  while (!job->done()) Step(engine, {job.get()});
  return engine->Finish(*job).value();
}

// Each joins a step later than the one before, in front of it where `in_front`.
std::vector<Image> Together(Engine* engine, const std::vector<ImageSpec>& specs, bool in_front) {
  std::vector<std::unique_ptr<ImageJob>> jobs;
  const auto running = [&] {
    std::vector<ImageJob*> batch;
    for (const auto& job : jobs)
      if (!job->done()) batch.push_back(job.get());
    if (in_front) std::reverse(batch.begin(), batch.end());
    return batch;
  };
  for (const ImageSpec& spec : specs) {
    jobs.push_back(engine->Prepare(spec).value());
    Step(engine, running());
  }
  while (!running().empty()) Step(engine, running());
  std::vector<Image> images;
  for (const auto& job : jobs) images.push_back(engine->Finish(*job).value());
  return images;
}

class Precisions : public ::testing::TestWithParam<const char*> {};

TEST_P(Precisions, ABatchLeavesThePictureAsItIs) {
  const auto engine = LoadDemo(GetParam());
  const std::vector<ImageSpec> specs = Mixed();
  for (const ImageSpec& spec : specs) ASSERT_EQ(engine->BatchKey(spec), engine->BatchKey(specs.front()));
  std::vector<Image> alone;
  for (const ImageSpec& spec : specs) alone.push_back(Alone(engine.get(), spec));
  bool exact = true;
  for (bool in_front : {false, true}) {
    const std::vector<Image> together = Together(engine.get(), specs, in_front);
    for (size_t i = 0; i < specs.size(); ++i) {
      ASSERT_EQ(together[i].width, specs[i].width);
      EXPECT_GE(Psnr(alone[i], together[i]).value(), kLeastPsnr) << i << (in_front ? " in front" : "");
      exact = exact && together[i].rgb == alone[i].rgb;
    }
  }
  RecordProperty("exact", exact ? "yes" : "no");
  // The promise that lets deterministic images share steps.
  EXPECT_TRUE(exact || !engine->info().batch_invariant);
}

// Every picture is of its own, so that equal ones say something.
TEST_P(Precisions, OtherSpecsAreOtherPictures) {
  const auto engine = LoadDemo(GetParam());
  ImageSpec other = Mixed()[0];
  const Image first = Alone(engine.get(), other);
  other.seed += 1;
  EXPECT_LT(Psnr(first, Alone(engine.get(), other)).value(), kLeastPsnr);
}

// The same bits in fp32, else the same to the eye.
void ExpectSame(const Image& picture, const Image& alone, const std::string& precision) {
  ASSERT_EQ(picture.width, alone.width);
  EXPECT_GE(Psnr(alone, picture).value(), kLeastPsnr);
  if (precision == "fp32") {
    EXPECT_EQ(picture.rgb, alone.rgb);
  }
}

// Before every step but the first it has been parked, and others, of its kind and not, have been drawn meanwhile.
TEST_P(Precisions, PausesLeaveThePictureAsItIs) {
  const auto engine = LoadDemo(GetParam());
  const std::vector<ImageSpec> specs = Mixed();
  const Image alone = Alone(engine.get(), specs[0]);
  const auto job = engine->Prepare(specs[0]).value();
  const auto other = engine->Prepare(specs[4]).value();
  while (!job->done()) {
    Step(engine.get(),
         job->step() % 2 == 0 ? std::vector<ImageJob*>{job.get()} : std::vector<ImageJob*>{other.get(), job.get()});
    if (job->done()) break;
    ASSERT_TRUE(engine->Park(*job).ok());
    Step(engine.get(), {other.get()});
    Alone(engine.get(), DeterministicSpec("a robot", 64, 64, 1, 1, 9));
    ASSERT_TRUE(engine->Resume(*job).ok());
  }
  ExpectSame(engine->Finish(*job).value(), alone, GetParam());
}

// From one engine of the model to the other and back at every step, sharing steps with others there.
TEST_P(Precisions, MovesLeaveThePictureAsItIs) {
  const auto engine = LoadDemo(GetParam()), replica = LoadDemo(GetParam());
  const std::vector<ImageSpec> specs = Mixed();
  for (size_t i : {0, 1}) {
    const Image alone = Alone(engine.get(), specs[i]);
    Engine* on = engine.get();
    const auto job = on->Prepare(specs[i]).value();
    while (!job->done()) {
      const auto other = on->Prepare(specs[2]).value();
      Step(on, {other.get(), job.get()});
      ASSERT_TRUE(on->Park(*job).ok());
      on = on == engine.get() ? replica.get() : engine.get();
      ASSERT_TRUE(on->Resume(*job).ok());
    }
    ExpectSame(on->Finish(*job).value(), alone, GetParam());
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Precisions, ::testing::Values("fp32", "bf16", "fp8", "fp8-weight-only", "int8"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

class ExactnessTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { engine_ = LoadDemo("fp32").release(); }
  static void TearDownTestSuite() { delete engine_; }
  static Engine* engine_;
};
Engine* ExactnessTest::engine_ = nullptr;

// Another machine's number of cores, or another configuration. Bit for bit where libtorch's own kernels are those for
// AVX-512; with others (ATEN_CPU_CAPABILITY=avx2) a single thread gives other last bits than two.
TEST_F(ExactnessTest, ThreadsLeaveThePictureAsItIs) {
  const ImageSpec spec = Mixed()[0];
  const Image two = Alone(engine_, spec);
  for (int threads : {1, 3}) {
    const auto other = LoadDemo("fp32", threads);
    EXPECT_GE(Psnr(two, Alone(other.get(), spec)).value(), kLeastPsnr) << threads << " threads";
  }
  LoadDemo("fp32", 2);  // the number is the process's
}

TEST(BatchKeyOfTest, DeterministicImagesHaveAGroupOfTheirOwnWhereABatchChangesBits) {
  ModelInfo gpu, cpu;
  cpu.batch_invariant = true;
  ImageSpec plain = Mixed()[0];
  plain.deterministic = false;
  ImageSpec deterministic = plain;
  deterministic.deterministic = true;
  EXPECT_EQ(BatchKeyOf(cpu, deterministic), BatchKeyOf(cpu, plain));
  EXPECT_NE(BatchKeyOf(gpu, deterministic), BatchKeyOf(gpu, plain));
  EXPECT_TRUE(MustBeAlone(gpu, deterministic));
  EXPECT_FALSE(MustBeAlone(cpu, deterministic));
  EXPECT_FALSE(MustBeAlone(gpu, plain));
}

}  // namespace
}  // namespace fresco
