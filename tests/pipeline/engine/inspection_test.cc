// What is told of a model's layers while it draws.
#include "pipeline/engine/inspection.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "pipeline/engine/activation_recorder.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kMedium[] = "tests/reference/checkpoints/medium";  // of random weights
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

InspectionOptions Options(const std::string& precision, const std::string& against, float guidance = 1) {
  InspectionOptions options;
  options.load.name = options.load.path = kMedium;
  options.load.precision = precision;
  options.load.threads = 1;
  options.against = against;
  options.specs = [guidance](const ModelInfo&) {
    ImageSpec spec;
    spec.prompt = "a";
    spec.width = 64;
    spec.height = 48;
    spec.steps = 2;
    spec.guidance_scale = guidance;
    spec.max_sequence_length = 16;
    return std::vector<ImageSpec>{spec};
  };
  return options;
}

Inspection Inspect(const InspectionOptions& options) {
  absl::StatusOr<Inspection> inspection = InspectActivations(options);
  EXPECT_TRUE(inspection.ok()) << inspection.status();
  return inspection.ok() ? *std::move(inspection) : Inspection();
}

const InspectedLayer& Layer(const Inspection& inspection, const std::string& name) {
  const auto found = std::find_if(inspection.layers.begin(), inspection.layers.end(),
                                  [&](const InspectedLayer& layer) { return layer.name == name; });
  if (found == inspection.layers.end()) throw std::out_of_range(name);
  return *found;
}

TEST(ActivationRecorder, CountsEveryValueOnce) {
  ActivationRecorder recorder(2, /*keep=*/false);
  recorder.Stage("before", at::zeros({4}));  // nobody has asked
  recorder.Record(1);
  recorder.Stage("a", at::tensor({1.0F, -449.0F, 448.0F, kNan, kInfinity, -kInfinity, 0.5F}).reshape({1, 7}));
  recorder.Stage("a", at::tensor({-2.0F}).to(at::kBFloat16));
  recorder.Rest();
  recorder.Stage("after", at::zeros({4}));
  const std::vector<InspectedLayer> layers = recorder.TakeLayers();
  ASSERT_EQ(layers.size(), 1u);
  EXPECT_EQ(layers[0].name, "a");
  EXPECT_EQ(layers[0].steps[0].values.counts().count, 0);
  const InspectedStep& step = layers[0].steps[1];
  EXPECT_EQ(step.values.counts().count, 8);
  EXPECT_EQ(step.nan, 1);
  EXPECT_EQ(step.infinite, 2);
  EXPECT_EQ(step.beyond_e4m3, 3);  // 448 is E4M3's
  EXPECT_EQ(step.values.Range().max, kInfinity);
}

TEST(ActivationRecorder, AMapIsAChannelOverThePicture) {
  // Two samples of 2 x 3 tokens with two channels: the last sample's are 12 to 23, token by token.
  const at::Tensor tokens = at::arange(24, at::kFloat).reshape({2, 6, 2});
  const auto maps = MapsOf(tokens, 2, 3, 64);
  ASSERT_TRUE(maps.has_value());
  EXPECT_EQ(maps->height, 2);
  EXPECT_EQ(maps->width, 3);
  EXPECT_THAT(maps->channels, ElementsAre(1, 0));
  EXPECT_THAT(maps->absmax, ElementsAre(23, 22));
  EXPECT_THAT(maps->maps[0], ElementsAre(13, 15, 17, 19, 21, 23));
  EXPECT_THAT(maps->maps[1], ElementsAre(12, 14, 16, 18, 20, 22));
  EXPECT_EQ(MapsOf(tokens, 2, 3, 1)->maps.size(), 1u);
  EXPECT_FALSE(MapsOf(tokens, 3, 3, 64).has_value());
  const auto pixels = MapsOf(at::arange(8, at::kFloat).reshape({1, 2, 2, 2}), 9, 9, 1);
  ASSERT_TRUE(pixels.has_value());
  EXPECT_THAT(pixels->maps[0], ElementsAre(4, 5, 6, 7));
}

TEST(Fidelity, IsInDecibels) {
  EXPECT_DOUBLE_EQ((Fidelity{100, 1}).decibels(), 20);
  EXPECT_EQ((Fidelity{100, 0}).decibels(), std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan((Fidelity{kNan, 1}).decibels()));
  EXPECT_FALSE(Fidelity().known());
}

TEST(Inspection, TellsEveryLinearAndStageAtEachStep) {
  const Inspection inspection = Inspect(Options("fp32", "", /*guidance=*/3));
  const InspectedLayer& query = Layer(inspection, "transformer.transformer_blocks.0.attn.to_q");
  EXPECT_THAT(query.others,
              ElementsAre("transformer.transformer_blocks.0.attn.to_k", "transformer.transformer_blocks.0.attn.to_v"));
  EXPECT_EQ(query.scheme, "high");
  ASSERT_EQ(query.steps.size(), 3u);
  // Two samples of a guided picture, 4 x 3 patches, 48 channels.
  EXPECT_EQ(query.steps[0].values.counts().count, 2 * 12 * 48);
  EXPECT_EQ(query.steps[1].values.counts().count, 2 * 12 * 48);
  EXPECT_EQ(query.steps[2].values.counts().count, 0);
  EXPECT_EQ(query.all().values.counts().count, 2 * 2 * 12 * 48);
  const InspectedLayer& image = Layer(inspection, "vae.image");
  EXPECT_EQ(image.steps[0].values.counts().count, 0);
  EXPECT_EQ(image.steps[2].values.counts().count, 3 * 64 * 48);
  EXPECT_TRUE(ByOwnNoise(inspection).empty());
  EXPECT_EQ(FirstToFall(inspection), nullptr);
}

TEST(Inspection, AModelIsEqualToItself) {
  const Inspection inspection = Inspect(Options("fp32", "fp32", 3));
  EXPECT_EQ(inspection.reference.precision, "fp32");
  for (const InspectedLayer& layer : inspection.layers) {
    const InspectedStep all = layer.all();
    EXPECT_EQ(all.own.noise, 0) << layer.name;
    EXPECT_EQ(all.through.noise, 0) << layer.name;
    EXPECT_TRUE(layer.kind == InspectedLayer::Kind::kLinear ? all.own.known() : all.through.known()) << layer.name;
  }
}

TEST(Inspection, NoiseIsFoundWhereItArises) {
  InspectionOptions options = Options("fp32", "fp32");
  options.load.layers = {{"transformer_blocks.1.ff.net.2", LinearScheme::kFp8}};
  const Inspection inspection = Inspect(options);
  const std::vector<const InspectedLayer*> ranked = ByOwnNoise(inspection);
  ASSERT_EQ(ranked.size(), 1u);
  EXPECT_EQ(ranked[0]->name, "transformer.transformer_blocks.1.ff.net.2");
  EXPECT_EQ(ranked[0]->scheme, "fp8");
  // E4M3 has three bits of mantissa: the error of a rounded value is a sixteenth of it at most (24 dB), on average
  // less.
  EXPECT_GT(ranked[0]->all().own.decibels(), 24);
  EXPECT_LT(ranked[0]->all().own.decibels(), 60);
  EXPECT_EQ(Layer(inspection, "transformer.block.0.image").all().through.noise, 0);
  for (const char* after : {"transformer.block.1.image", "transformer.block.2.image", "transformer.output"})
    EXPECT_GT(Layer(inspection, after).all().through.noise, 0) << after;
  EXPECT_EQ(Layer(inspection, "transformer.block.1.context").all().through.noise, 0);
  // Both are given the same latents at each step, and so at the decoding.
  EXPECT_EQ(Layer(inspection, "transformer.patches").steps[1].through.noise, 0);
  EXPECT_EQ(Layer(inspection, "vae.image").all().through.noise, 0);
}

TEST(Inspection, TheFirstToFallIsTheFirstInOrderNotTheWorst) {
  Inspection inspection;
  const auto add = [&](const std::string& name, double decibels, const std::string& scheme = "fp8") {
    InspectedLayer& layer = inspection.layers.emplace_back();
    layer.name = name;
    layer.scheme = scheme;
    layer.steps.resize(1);
    layer.steps[0].own = {std::pow(10, decibels / 10), 1};
  };
  for (const char* name : {"a", "b", "c"}) add(name, 32);
  add("high", 5, "high");
  add("second", 20);
  add("worst", 10);
  for (const char* name : {"d", "e"}) add(name, 31);
  EXPECT_EQ(FirstToFall(inspection)->name, "second");
  EXPECT_EQ(ByOwnNoise(inspection).front()->name, "worst");
  inspection.layers[4].steps[0].own = {std::pow(10, 2.3), 1};
  EXPECT_EQ(FirstToFall(inspection)->name, "worst");
  inspection.layers[5].steps[0].own.noise = kNan;
  EXPECT_EQ(FirstToFall(inspection)->name, "worst");
}

TEST(Inspection, HandsOnTheMapsOfALayer) {
  InspectionOptions options = Options("fp32", "", 3);
  options.features = "transformer.block.1.image";
  options.feature_channels = 5;
  std::vector<FeatureMaps> maps;
  options.on_features = [&](const FeatureMaps& each) { maps.push_back(each); };
  Inspect(options);
  ASSERT_EQ(maps.size(), 2u);
  EXPECT_EQ(maps[1].step, 1u);
  EXPECT_EQ(maps[0].height, 3);
  EXPECT_EQ(maps[0].width, 4);
  EXPECT_EQ(maps[0].all_channels, 48);
  EXPECT_EQ(maps[0].maps.size(), 5u);

  options.features = "transformer.context_embedder";
  EXPECT_THAT(InspectActivations(options).status().message(), HasSubstr("has no places in the picture"));
  options.features = "transformer.block.9.image";
  EXPECT_THAT(InspectActivations(options).status().message(),
              AllOf(HasSubstr("'transformer.block.9.image'"), HasSubstr("transformer.block.1.image")));
}

TEST(Inspection, WhatCannotBeDrawnIsRefused) {
  InspectionOptions options = Options("fp32", "fp31");
  EXPECT_THAT(InspectActivations(options).status().message(), HasSubstr("fp31"));
  options = Options("fp32", "");
  options.specs = [](const ModelInfo&) {
    ImageSpec spec;
    spec.width = 65;
    return std::vector<ImageSpec>{spec};
  };
  EXPECT_EQ(InspectActivations(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.specs = [](const ModelInfo&) { return std::vector<ImageSpec>(); };
  EXPECT_EQ(InspectActivations(options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace fresco
