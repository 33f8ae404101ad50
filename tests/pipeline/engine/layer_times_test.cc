// Adding up recordings that are written by hand, so that what comes of them is known.
#include "pipeline/engine/layer_times.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace fresco {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Level = RecordedScope::Level;

constexpr double kNanosecond = 1e-9, kExact = 1e-15;

RecordedScope Scope(Level level, const std::string& name, int64_t begin, int64_t end) {
  RecordedScope scope;
  scope.level = level;
  scope.name = name;
  scope.begin_ns = begin;
  scope.end_ns = end;
  return scope;
}

RecordedScope Layer(const std::string& name, int64_t begin, int64_t end, const std::string& dtype = "fp32") {
  RecordedScope scope = Scope(Level::kLayer, name, begin, end);
  scope.flops = 100;
  scope.bytes = 10;
  scope.dtype = dtype;
  return scope;
}

// A step of 1000 ns from `begin` on, with two layers of 300 and 200 in a block.
Recording StepFrom(int64_t begin) {
  Recording recording;
  recording.scopes = {
      Scope(Level::kStage, "step", begin, begin + 1000), Scope(Level::kModule, "transformer", begin + 10, begin + 990),
      Scope(Level::kModule, "transformer_blocks.0", begin + 20, begin + 900),
      Layer("attn.to_out.0", begin + 100, begin + 400), Layer("ff.net.2", begin + 500, begin + 700, "fp8")};
  return recording;
}

std::vector<std::string> NamesOf(const StageTimes& stage) {
  std::vector<std::string> names;
  for (const LayerTime& layer : stage.layers) names.push_back(layer.name);
  return names;
}

TEST(LayerTimesTest, LayersAndWhatIsBetweenThemAddUpToTheStage) {
  const std::vector<StageTimes> stages = AddUpLayers({StepFrom(5000)});
  ASSERT_EQ(stages.size(), 1u);
  const StageTimes& step = stages[0];
  EXPECT_EQ(step.name, "step");
  EXPECT_EQ(step.calls, 1);
  EXPECT_THAT(NamesOf(step), ElementsAre("transformer.transformer_blocks.0.attn.to_out.0",
                                         "transformer.transformer_blocks.0.ff.net.2"));
  EXPECT_THAT(step.layers[0].seconds, DoubleNear(300 * kNanosecond, kExact));
  EXPECT_THAT(step.layers[1].seconds, DoubleNear(200 * kNanosecond, kExact));
  EXPECT_EQ(step.layers[1].dtype, "fp8");
  EXPECT_EQ(step.layers[1].flops, 100);
  EXPECT_THAT(step.outside_seconds, DoubleNear(500 * kNanosecond, kExact));
  EXPECT_THAT(step.layer_seconds() + step.outside_seconds + step.idle_seconds, DoubleNear(step.seconds, kExact));
}

TEST(LayerTimesTest, TheOrderOfScopesIsTheirTimesAndALayerWithinALayerIsAPartOfIt) {
  Recording recording = StepFrom(0);
  recording.scopes.push_back(Layer("inner", 150, 250));
  std::swap(recording.scopes.front(), recording.scopes.back());
  const std::vector<StageTimes> stages = AddUpLayers({recording});
  ASSERT_EQ(stages.size(), 1u);
  EXPECT_EQ(stages[0].layers.size(), 2u);
  EXPECT_THAT(stages[0].outside_seconds, DoubleNear(500 * kNanosecond, kExact));
}

TEST(LayerTimesTest, RunsOfALayerInOneCallAreAddedUpAndTypesKeptApart) {
  Recording recording = StepFrom(0);
  recording.scopes.push_back(Layer("ff.net.2", 750, 800, "fp8"));
  recording.scopes.push_back(Layer("ff.net.2", 810, 820, "bf16"));
  const StageTimes step = AddUpLayers({recording}).front();
  ASSERT_EQ(step.layers.size(), 3u);
  EXPECT_EQ(step.layers[1].runs, 2);
  EXPECT_EQ(step.layers[1].flops, 200);
  EXPECT_THAT(step.layers[1].seconds, DoubleNear(250 * kNanosecond, kExact));
  EXPECT_EQ(step.layers[2].dtype, "bf16");
}

// Of four calls the fastest and the slowest count for nothing.
TEST(LayerTimesTest, OutliersAreLeftOut) {
  Recording slow = StepFrom(10000);
  slow.scopes[0].end_ns += 1000000;
  Recording slower = StepFrom(20000);
  slower.scopes[0].end_ns += 100;
  Recording fast = StepFrom(30000);
  fast.scopes[0].end_ns -= 100;
  fast.scopes[1].end_ns -= 100;
  const StageTimes step = AddUpLayers({slow, StepFrom(0), slower, fast}).front();
  EXPECT_EQ(step.calls, 4);
  EXPECT_THAT(step.seconds, DoubleNear(1050 * kNanosecond, kExact));
  EXPECT_THAT(step.outside_seconds, DoubleNear(550 * kNanosecond, kExact));
}

constexpr char kFirst[] = "transformer.transformer_blocks.0.attn.to_out.0";
constexpr char kSecond[] = "transformer.transformer_blocks.0.ff.net.2";

// seconds: as nanoseconds.
LayerGap Gap(const std::string& after, const std::string& before, double nanoseconds, int64_t count = 1) {
  return {after, before, nanoseconds, count};
}

std::vector<LayerGap> GapsOf(const StageTimes& stage) {
  std::vector<LayerGap> gaps = stage.gaps;
  for (LayerGap& gap : gaps) gap.seconds = std::round(gap.seconds / kNanosecond);
  return gaps;
}

TEST(LayerTimesTest, WhatNoLayerTakesIsLostBetweenTwoOfThemTheLongestFirst) {
  const StageTimes step = AddUpLayers({StepFrom(0), StepFrom(7000)}).front();
  EXPECT_THAT(GapsOf(step), ElementsAre(Gap(kSecond, "", 300), Gap("", kFirst, 100), Gap(kFirst, kSecond, 100)));
  EXPECT_THAT(step.lost_seconds(), DoubleNear(500 * kNanosecond, kExact));
}

TEST(LayerTimesTest, GapsBetweenTheSameLayersAreOne) {
  Recording recording = StepFrom(0);
  recording.scopes.push_back(Layer("attn.to_out.0", 750, 760));
  recording.scopes.push_back(Layer("ff.net.2", 770, 790, "fp8"));
  const StageTimes step = AddUpLayers({recording}).front();
  EXPECT_THAT(GapsOf(step), ElementsAre(Gap(kSecond, "", 210), Gap(kFirst, kSecond, 110, 2), Gap("", kFirst, 100),
                                        Gap(kSecond, kFirst, 50)));
}

TEST(LayerTimesTest, OnAGpuWhatIsLostIsWhereNoKernelRuns) {
  Recording recording = StepFrom(0);
  recording.on_device = true;
  // Two of the first layer with 20 ns between them, one between the layers right after, two of the second 30 ns later,
  // of which the one that begins first ends last, and one that is launched after both layers.
  recording.kernels = {{110, 5000, 5100}, {120, 5120, 5200}, {450, 5200, 5250},
                       {600, 5280, 5400}, {610, 5290, 5300}, {800, 5450, 5460}};
  const StageTimes step = AddUpLayers({recording}).front();
  EXPECT_THAT(GapsOf(step), ElementsAre(Gap(kSecond, "", 50), Gap(kFirst, kSecond, 30), Gap(kFirst, kFirst, 20)));
  EXPECT_TRUE(step.on_device);
  EXPECT_EQ(step.lost_seconds(), step.idle_seconds);
}

TEST(LayerTimesTest, OnAGpuALayerHasTheKernelsThatItLaunched) {
  Recording recording = StepFrom(0);
  recording.on_device = true;
  // Launched in the first layer, between both, in the second; the device waits 40 ns before the last. One is another
  // call's.
  recording.kernels = {{110, 5000, 5300}, {450, 5300, 5310}, {600, 5350, 5400}, {9999, 1, 2}};
  const StageTimes step = AddUpLayers({recording}).front();
  EXPECT_THAT(step.seconds, DoubleNear(400 * kNanosecond, kExact));
  EXPECT_THAT(step.layers[0].seconds, DoubleNear(300 * kNanosecond, kExact));
  EXPECT_THAT(step.layers[1].seconds, DoubleNear(50 * kNanosecond, kExact));
  EXPECT_THAT(step.outside_seconds, DoubleNear(10 * kNanosecond, kExact));
  EXPECT_THAT(step.idle_seconds, DoubleNear(40 * kNanosecond, kExact));
  EXPECT_THAT(step.layer_seconds() + step.outside_seconds + step.idle_seconds, DoubleNear(step.seconds, kExact));
}

TEST(LayerTimesTest, StagesComeInTheirOrderAndWhatIsInNoneIsLeftOut) {
  Recording prepare;
  prepare.scopes = {Layer("lost", 0, 1), Scope(Level::kStage, "prepare", 10, 20), Layer("text_projection", 12, 15)};
  const std::vector<StageTimes> stages = AddUpLayers({prepare, StepFrom(100), prepare});
  ASSERT_EQ(stages.size(), 2u);
  EXPECT_EQ(stages[0].name, "prepare");
  EXPECT_EQ(stages[0].calls, 2);
  EXPECT_THAT(NamesOf(stages[0]), ElementsAre("text_projection"));
  EXPECT_EQ(stages[1].name, "step");
  EXPECT_THAT(AddUpLayers({}), IsEmpty());
}

TEST(LayerTimesTest, KindsAreOfWhatModelsCallTheirLayers) {
  const std::vector<std::pair<std::string, LayerKind>> known = {
      {"attn.to_q, to_k, to_v", LayerKind::kAttention},
      {"attn.add_q_proj, add_k_proj, add_v_proj", LayerKind::kAttention},
      {"attn2.attention", LayerKind::kAttention},
      {"SelfAttention.o", LayerKind::kAttention},
      {"self_attn.out_proj", LayerKind::kAttention},
      {"attn.qk_norm", LayerKind::kNorm},
      {"norm1_context", LayerKind::kNorm},
      {"layer.0.layer_norm", LayerKind::kNorm},
      {"norm_out.linear", LayerKind::kModulation},
      {"transformer_blocks.*.norm1.linear, norm1_context.linear", LayerKind::kModulation},
      {"ff_context.net.0.proj", LayerKind::kMlp},
      {"mlp.fc1", LayerKind::kMlp},
      {"DenseReluDense.wo", LayerKind::kMlp},
      {"conv1", LayerKind::kConvolution},
      {"upsamplers.0.conv", LayerKind::kConvolution},
      {"context_embedder", LayerKind::kEmbedding},
      {"pos_embed.proj", LayerKind::kEmbedding},
      {"residual", LayerKind::kOther},
  };
  for (const auto& [name, kind] : known) {
    Recording recording;
    recording.scopes = {Scope(Level::kStage, "step", 0, 10), Layer(name, 1, 2)};
    EXPECT_EQ(AddUpLayers({recording}).front().layers.front().kind, kind) << name;
  }
}

TEST(LayerTimesTest, KindsOfOneComponentAreSummed) {
  Recording recording = StepFrom(0);
  recording.scopes.push_back(Layer("attn.to_q", 710, 720, "bf16"));
  const std::vector<LayerTime> kinds = SumByKind(AddUpLayers({recording}).front().layers);
  ASSERT_EQ(kinds.size(), 2u);
  EXPECT_EQ(kinds[0].name, "transformer");
  EXPECT_EQ(kinds[0].kind, LayerKind::kAttention);
  EXPECT_EQ(kinds[0].dtype, "fp32");
  EXPECT_EQ(kinds[0].runs, 2);
  EXPECT_THAT(kinds[0].seconds, DoubleNear(310 * kNanosecond, kExact));
  EXPECT_EQ(kinds[1].kind, LayerKind::kMlp);
}

TEST(LayerTimesTest, TracesAreMergedOnOneAxis) {
  Recording first, second;
  first.trace = R"({"baseTimeNanoseconds":7,"traceName":"/tmp/x","traceEvents":[{"name":"a"}]})";
  second.trace = R"({"baseTimeNanoseconds":7,"traceName":"/tmp/y","traceEvents":[{"name":"b"},{"name":"c"}]})";
  const auto merged = MergeTraces({first, second});
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(
      nlohmann::json::parse(*merged),
      nlohmann::json::parse(R"({"baseTimeNanoseconds":7,"traceEvents":[{"name":"a"},{"name":"b"},{"name":"c"}]})"));
  second.trace = R"({"baseTimeNanoseconds":8,"traceEvents":[]})";
  EXPECT_TRUE(absl::IsInternal(MergeTraces({first, second}).status()));
  second.trace = "no trace";
  EXPECT_TRUE(absl::IsInternal(MergeTraces({first, second}).status()));
  EXPECT_TRUE(absl::IsInternal(MergeTraces({}).status()));
}

}  // namespace
}  // namespace fresco
