// What an engine's warm-up records, with graphs of the CPU that do their work again.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/engine/diffusion_engine.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/model_info.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/precision.h"
#include "tests/pipeline/engine/fake_graphs.h"

namespace fresco {
namespace {

class WarmUpTest : public ::testing::Test {
 protected:
  // The demo model.
  static std::unique_ptr<DiffusionEngine> Load(const GraphCalls::Source& graphs) {
    LoadOptions options;
    options.name = "tested";
    options.path = "models/demo";
    const ModelSource source = ModelSource::Open(options.path, /*base=*/"").value();
    const Precision precision = ChoosePrecision("fp32", at::kCPU).value();
    ModelParts parts = LoadModelParts(source, at::kCPU, precision).value();
    ModelInfo info = DescribeModel(options, source, parts, precision).value();
    return std::make_unique<DiffusionEngine>(std::move(info), std::move(parts), std::vector<MappedBytes>(),
                                             /*prompt_cache_bytes=*/1 << 20, /*corrector=*/nullptr,
                                             /*correct_noise=*/true, Observer(), MemoryAdvisor(), graphs);
  }
  std::unique_ptr<DiffusionEngine> LoadWithGraphs() {
    return Load([this](const at::Device& device, GraphPriority priority, int64_t bytes,
                       std::shared_ptr<SaturationCount> saturation, const std::string&) {
      GraphCalls::Options options;
      options.device = device;
      options.maker = (priority == GraphPriority::kFirst ? steps_ : decodes_).Maker();
      options.limits.bytes = bytes;
      options.saturation = std::move(saturation);
      return std::optional(std::move(options));
    });
  }

  static ImageSpec DefaultSpec(const ModelInfo& info) {
    ImageSpec spec;
    spec.prompt = "a red apple";
    spec.width = info.default_width;
    spec.height = info.default_height;
    spec.steps = 4;
    spec.guidance_scale = info.default_guidance_scale;
    spec.max_sequence_length = info.default_max_sequence_length;
    return spec;
  }
  static Image Draw(Engine* engine, const ImageSpec& spec) {
    const std::unique_ptr<ImageJob> job = engine->Prepare(spec).value();
    while (!job->done()) EXPECT_TRUE(engine->Step({job.get()}).front().ok());
    return engine->Finish(*job).value();
  }

  FakeGraphs steps_, decodes_;
};

TEST_F(WarmUpTest, TheFirstPictureOfTheDefaultSizeFindsItsGraphs) {
  const auto engine = LoadWithGraphs();
  ASSERT_TRUE(engine->WarmUp().ok());
  EXPECT_EQ(steps_.captures, 1) << "of what is drawn by default, and nothing else";
  EXPECT_EQ(decodes_.captures, 1);
  const int steps = steps_.replays, decodes = decodes_.replays;
  const ImageSpec spec = DefaultSpec(engine->info());
  const Image drawn = Draw(engine.get(), spec);
  EXPECT_EQ(steps_.captures, 1);
  EXPECT_EQ(steps_.replays - steps, spec.steps);
  EXPECT_EQ(decodes_.captures, 1);
  EXPECT_EQ(decodes_.replays - decodes, 1);
  const auto without = Load({});
  EXPECT_EQ(drawn.rgb, Draw(without.get(), spec).rgb);
}

TEST_F(WarmUpTest, OthersComeByThemselves) {
  const auto engine = LoadWithGraphs();
  ASSERT_TRUE(engine->WarmUp().ok());
  const int replays = steps_.replays;
  ImageSpec plain = DefaultSpec(engine->info());
  plain.guidance_scale = 1;
  plain.steps = GraphLimits().uses_before;
  Draw(engine.get(), plain);
  EXPECT_EQ(steps_.captures, 1);
  EXPECT_EQ(steps_.replays, replays);
  Draw(engine.get(), plain);
  EXPECT_EQ(steps_.captures, 2);
}

// A server's worker does so, on its own thread.
TEST_F(WarmUpTest, OnceMoreRecordsNothingAnew) {
  const auto engine = LoadWithGraphs();
  ASSERT_TRUE(engine->WarmUp().ok());
  ASSERT_TRUE(engine->WarmUp().ok());
  EXPECT_EQ(steps_.captures, 1);
  EXPECT_EQ(decodes_.captures, 1);
}

TEST_F(WarmUpTest, WhatCannotBeRecordedDoesNotFailIt) {
  steps_.fails = decodes_.fails = true;
  const auto engine = LoadWithGraphs();
  EXPECT_TRUE(engine->WarmUp().ok());
  EXPECT_EQ(steps_.replays, 0);
  Draw(engine.get(), DefaultSpec(engine->info()));
}

TEST_F(WarmUpTest, WithoutGraphsThereIsNothingToRecord) {
  EXPECT_TRUE(Load({})->WarmUp().ok());
  EXPECT_EQ(steps_.captures + decodes_.captures, 0);
}

}  // namespace
}  // namespace fresco
