// What is predicted before a model is loaded, beside what the allocator counts while it draws.
#include "pipeline/engine/memory_plan.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"

namespace fresco {
namespace {

constexpr double kTolerance = 0.05;

struct Shape {
  int width = 128, height = 128, batch = 1;
  float guidance = 5;
  int max_sequence_length = 32;
};

LoadOptions Demo(const std::string& precision, const VaeOptions& vae = {}) {
  LoadOptions options;
  options.name = "demo";
  options.path = "models/demo";
  options.precision = precision;
  options.vae = vae;
  options.threads = 2;
  return options;
}

// The most that is held while texts are encoded, while steps are taken and while a picture is decoded.
struct Peaks {
  int64_t encode = 0, step = 0, decode = 0;
};

Peaks Measure(Engine& engine, const Shape& shape) {
  std::vector<ImageSpec> specs(static_cast<size_t>(shape.batch));
  std::vector<const ImageSpec*> pointers;
  for (size_t i = 0; i < specs.size(); ++i) {
    specs[i].prompt = "a red apple, number " + std::to_string(i);
    specs[i].negative_prompt = "blurry " + std::to_string(i);
    specs[i].width = shape.width;
    specs[i].height = shape.height;
    specs[i].steps = 2;
    specs[i].guidance_scale = shape.guidance;
    specs[i].max_sequence_length = shape.max_sequence_length;
    pointers.push_back(&specs[i]);
  }
  Peaks peaks;
  engine.TakePeakBytes();
  std::vector<std::unique_ptr<ImageJob>> jobs;
  std::vector<ImageJob*> batch;
  for (auto& job : engine.PrepareAll(pointers, TextCache::kPass)) {
    jobs.push_back(std::move(job).value());
    batch.push_back(jobs.back().get());
  }
  peaks.encode = engine.TakePeakBytes();
  for (int step = 0; step < 2; ++step) {
    for (const absl::Status& status : engine.Step(batch)) EXPECT_TRUE(status.ok()) << status;
  }
  peaks.step = engine.TakePeakBytes();
  EXPECT_TRUE(engine.Finish(*jobs.front()).ok());
  peaks.decode = engine.TakePeakBytes();
  return peaks;
}

MemoryLoad LoadOf(const Shape& shape) {
  MemoryLoad load;
  load.width = shape.width;
  load.height = shape.height;
  load.batch = shape.batch;
  load.guided = shape.guidance > 1;
  load.max_sequence_length = shape.max_sequence_length;
  return load;
}

int64_t EncodePeak(const MemoryPlan& plan) {
  int64_t most = 0;
  for (const StageMemory& stage : plan.stages)
    if (stage.name.starts_with("text_encoder")) most = std::max(most, stage.total_bytes());
  return most;
}

void ExpectNear(const char* stage, int64_t predicted, int64_t measured) {
  const double off = static_cast<double>(predicted) / static_cast<double>(measured) - 1;
  std::printf("  %-6s predicted %9.2f MiB, measured %9.2f MiB, %+.1f %%\n", stage,
              static_cast<double>(predicted) / (1 << 20), static_cast<double>(measured) / (1 << 20), 100 * off);
  EXPECT_LE(std::abs(off), kTolerance) << stage;
}

class PredictedMemory : public ::testing::TestWithParam<std::string> {};

TEST_P(PredictedMemory, IsWhatIsMeasured) {
  const LoadOptions options = Demo(GetParam());
  const MemoryPlanner planner = MemoryPlanner::Open(options).value();
  const std::unique_ptr<Engine> engine = LoadEngine(options).value();
  for (const Shape& shape : {Shape{64, 64, 1}, Shape{128, 128, 1}, Shape{128, 128, 4}, Shape{256, 128, 1, 1},
                             Shape{256, 256, 2}, Shape{512, 512, 1}, Shape{64, 64, 4, 5, 256}}) {
    const MemoryPlan plan = planner.Plan(LoadOf(shape));
    const Peaks peaks = Measure(*engine, shape);
    std::printf("%s, %dx%d, batch %d, guidance %g, %d T5 tokens: weights %.2f MiB\n", GetParam().c_str(), shape.width,
                shape.height, shape.batch, static_cast<double>(shape.guidance), shape.max_sequence_length,
                static_cast<double>(plan.weight_bytes()) / (1 << 20));
    ExpectNear("encode", EncodePeak(plan), peaks.encode);
    ExpectNear("step", plan.Find("step")->total_bytes(), peaks.step);
    ExpectNear("decode", plan.Find("decode")->total_bytes(), peaks.decode);
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, PredictedMemory,
                         ::testing::Values("fp32", "bf16", "fp8", "fp8-weight-only", "int8"), [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace fresco
