// Pictures of the model that ships, drawn on a GPU, beside the CPU's; skipped where there is no GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/engine/device.h"
#include "pipeline/engine/engine.h"
#include "pipeline/image/similarity.h"
#include "tests/support/demo_model.h"

namespace fresco {
namespace {

constexpr char kDevice[] = "cuda:0";
constexpr double kLeastOfCpu = 35, kLeastOfBatch = 50;  // dB

// Of three sizes, with and without guidance.
std::vector<ImageSpec> Specs(bool deterministic) {
  std::vector<ImageSpec> specs = {DeterministicSpec("a red apple on a white background", 128, 128, 12, 4, 1),
                                  DeterministicSpec("a fox", 96, 160, 12, 1, 2),
                                  DeterministicSpec("a sunflower on a light blue background", 64, 64, 12, 3, 3),
                                  DeterministicSpec("a snail", 128, 128, 12, 5, 4)};
  for (ImageSpec& spec : specs) spec.deterministic = deterministic;
  return specs;
}

std::vector<Image> Draw(Engine* engine, const std::vector<ImageSpec>& specs) {
  std::vector<std::unique_ptr<ImageJob>> jobs;
  std::vector<ImageJob*> batch;
  for (const ImageSpec& spec : specs) {
    jobs.push_back(engine->Prepare(spec).value());
    batch.push_back(jobs.back().get());
  }
  while (!jobs.front()->done())
    for (const absl::Status& status : engine->Step(batch)) EXPECT_TRUE(status.ok()) << status;
  std::vector<Image> images;
  for (const auto& job : jobs) images.push_back(engine->Finish(*job).value());
  return images;
}

class DevicePictures : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = PrepareDevice(kDevice, 0);
    if (!device.ok()) GTEST_SKIP() << "needs a GPU: " << device.status().message();
  }
};

TEST_P(DevicePictures, AreTheCpus) {
  const auto on_gpu = LoadDemo(GetParam(), /*threads=*/2, kDevice), on_cpu = LoadDemo(GetParam());
  for (const ImageSpec& spec : Specs(/*deterministic=*/false)) {
    const double psnr = Psnr(Draw(on_cpu.get(), {spec}).front(), Draw(on_gpu.get(), {spec}).front()).value();
    RecordProperty(spec.prompt, std::to_string(psnr));
    EXPECT_GE(psnr, kLeastOfCpu) << spec.prompt;
  }
}

TEST_P(DevicePictures, AreTheSameInABatchOfSeveralSizes) {
  const auto engine = LoadDemo(GetParam(), /*threads=*/2, kDevice);
  const std::vector<ImageSpec> specs = Specs(/*deterministic=*/false);
  const std::vector<Image> together = Draw(engine.get(), specs);
  for (size_t i = 0; i < specs.size(); ++i)
    EXPECT_GE(Psnr(Draw(engine.get(), {specs[i]}).front(), together[i]).value(), kLeastOfBatch) << specs[i].prompt;
}

// Whatever has been drawn meanwhile, and with whichever kernels and graphs.
TEST_P(DevicePictures, HaveTheSameBitsWhereTheyMustBeDeterministic) {
  const auto engine = LoadDemo(GetParam(), /*threads=*/2, kDevice), replica = LoadDemo(GetParam(), 2, kDevice);
  for (const ImageSpec& spec : Specs(/*deterministic=*/true)) {
    const Image first = Draw(engine.get(), {spec}).front();
    for (int i = 0; i < 4; ++i) Draw(engine.get(), Specs(/*deterministic=*/false));
    const auto job = engine->Prepare(spec).value();
    const auto other = engine->Prepare(Specs(/*deterministic=*/false).front()).value();
    while (!job->done()) {
      EXPECT_TRUE(engine->Step({{job.get()}}).front().ok());
      EXPECT_TRUE(engine->Step({{other.get()}}).front().ok());
    }
    EXPECT_EQ(engine->Finish(*job).value().rgb, first.rgb) << spec.prompt;
    EXPECT_EQ(Draw(replica.get(), {spec}).front().rgb, first.rgb) << spec.prompt;
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, DevicePictures, ::testing::Values("bf16", "fp16", "fp8", "int8"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace fresco
