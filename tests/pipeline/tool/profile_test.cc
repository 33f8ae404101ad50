// `fresco-model profile`: its tables, its JSON, its trace.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "tests/pipeline/tool/tool_runner.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// 12 tokens of the picture and 93 of the text, twice.
constexpr char kRequest[] = " --width 64 --height 48 --guidance 3 --max-sequence-length 16 --threads 1 --steps 2 ";
constexpr int64_t kSamples = 2, kPictureTokens = 12, kTextTokens = 93;

class ProfileTest : public ToolTest {
 protected:
  Result Profile(const std::string& arguments) const {
    return Run("profile " + std::string(kMedium) + kRequest + arguments);
  }
};

Json Named(const Json& list, const std::string& name) {
  for (const Json& each : list) {
    if (each["name"] == name) return each;
  }
  return nullptr;
}

int64_t WidthOfMedium() {
  const Json config = Json::parse(ReadFile(std::string(kMedium) + "/transformer/config.json"));
  return config["num_attention_heads"].get<int64_t>() * config["attention_head_dim"].get<int64_t>();
}

TEST_F(ProfileTest, JsonHasEveryStageWhoseRowsAddUp) {
  const Result result = Profile("--precision fp32 --json");
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json report = result.json();
  EXPECT_EQ(report["precision"], "fp32");
  EXPECT_EQ(report["width"], 64);
  EXPECT_EQ(report["height"], 48);
  EXPECT_GT(report["peak_flops_per_second"]["fp32"], 0);
  ASSERT_EQ(report["stages"].size(), 3u);
  for (const char* name : {"prepare", "step", "decode"}) {
    const Json stage = Named(report["stages"], name);
    ASSERT_FALSE(stage.is_null()) << name;
    EXPECT_EQ(stage["calls"], 2);
    double sum = stage["outside_seconds"].get<double>() + stage["idle_seconds"].get<double>();
    for (const Json& layer : stage["layers"]) sum += layer["seconds"].get<double>();
    EXPECT_NEAR(sum, stage["seconds"].get<double>(), 1e-6 * sum);
    double kinds = 0;
    for (const Json& kind : stage["kinds"]) kinds += kind["seconds"].get<double>();
    EXPECT_NEAR(kinds, stage["layer_seconds"].get<double>(), 1e-6 * kinds);
    EXPECT_GT(stage["plain_seconds"], 0);
    double lost = 0;
    for (const Json& gap : stage["gaps"]) lost += gap["seconds"].get<double>();
    EXPECT_NEAR(lost, stage["outside_seconds"].get<double>(), 1e-6 * sum);
    EXPECT_NEAR(lost / sum, stage["lost_share"].get<double>(), 1e-6);
  }
}

TEST_F(ProfileTest, LayersHaveTheWorkOfTheirShapes) {
  const Result result = Profile("--precision fp32 --json");
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json layers = Named(result.json()["stages"], "step")["layers"];
  const int64_t width = WidthOfMedium();
  const std::string block = "transformer.transformer_blocks.0.";
  const Json up = Named(layers, block + "ff.net.0.proj");
  ASSERT_FALSE(up.is_null());
  const int64_t rows = kSamples * kPictureTokens;
  EXPECT_EQ(up["flops"], 2 * rows * width * 4 * width);
  EXPECT_EQ(up["bytes"], 4 * (4 * width * width + 4 * width + rows * width + rows * 4 * width));
  EXPECT_EQ(up["dtype"], "fp32");
  EXPECT_EQ(up["kind"], "MLP");
  const int64_t tokens = kPictureTokens + kTextTokens;
  EXPECT_EQ(Named(layers, block + "attn.attention")["flops"], kSamples * 4 * tokens * tokens * width);
  EXPECT_EQ(Named(layers, block + "attn.add_q_proj, add_k_proj, add_v_proj")["flops"],
            2 * kSamples * kTextTokens * width * 3 * width);
  const Json norm = Named(layers, block + "norm1");
  EXPECT_EQ(norm["flops"], 0);
  EXPECT_EQ(norm["bound"], "memory");
  EXPECT_TRUE(norm["of_peak"].is_null());
  EXPECT_GT(norm["of_bandwidth"], 0);
}

TEST_F(ProfileTest, AQuantisedModelsLayersSayWhatTheyMultiply) {
  const Result result = Profile("--precision fp8 --json");
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json layers = Named(result.json()["stages"], "step")["layers"];
  EXPECT_EQ(Named(layers, "transformer.transformer_blocks.1.ff.net.0.proj")["dtype"], "fp8");
  EXPECT_NE(Named(layers, "transformer.transformer_blocks.1.attn.attention")["dtype"], "fp8");
}

TEST_F(ProfileTest, TheTableNamesKindsLayersAndWhatIsBetween) {
  const Result result = Profile("--precision fp32 --top 3");
  ASSERT_EQ(result.code, 0) << result.errors;
  EXPECT_THAT(result.output,
              AllOf(HasSubstr("step: "), HasSubstr("without the profiler"), HasSubstr("transformer, MLP"),
                    HasSubstr("vae, convolution"), HasSubstr("between layers"), HasSubstr("the longest of"),
                    HasSubstr("peak of fp32: "), HasSubstr("memory: "), HasSubstr("lost to gaps: ")));
  EXPECT_THAT(result.errors, ::testing::Not(HasSubstr("ERROR")));
}

TEST_F(ProfileTest, SaysWhoHoldsTheMemoryInEachStageAndAtThePeak) {
  const Result result = Profile("--precision fp32 --vae-tiling never --json");
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json memory = result.json()["memory"];
  ASSERT_EQ(memory["stages"].size(), 3u);
  int64_t most = 0;
  for (const Json& stage : memory["stages"]) {
    int64_t sum = 0;
    bool weights = false, activations = false;
    for (const Json& held : stage["held"]) {
      sum += held["bytes"].get<int64_t>();
      weights = weights || (held["component"] == "transformer" && held["kind"] == "weights");
      activations = activations || held["kind"] == "activations";
    }
    EXPECT_EQ(sum, stage["bytes"]) << stage["stage"];
    EXPECT_TRUE(weights && activations) << stage["stage"];
    most = std::max(most, sum);
  }
  EXPECT_EQ(memory["peak"]["bytes"], most);
  int64_t shown = 0;
  double before = 0;
  for (const Json& moment : memory["timeline"]) {
    shown = std::max(shown, moment["bytes"].get<int64_t>());
    EXPECT_GE(moment["seconds"], before);
    before = moment["seconds"];
  }
  EXPECT_NEAR(shown, most, 0.02 * most + 300'000);  // small changes are left out
  const Result table = Profile("--precision fp32 --top 1");
  EXPECT_THAT(table.output, AllOf(HasSubstr("memory on cpu: the peak is "), HasSubstr("transformer weights")));
}

// A viewer stacks them over the layers: they are within the stages' times.
TEST_F(ProfileTest, TheTraceHasMemoryAsCounters) {
  const std::string path = File("trace.json");
  ASSERT_EQ(Profile("--precision fp32 --trace " + path).code, 0);
  const Json trace = Json::parse(ReadFile(path));
  double begin = 1e300, end = 0;
  std::vector<Json> counters;
  for (const Json& event : trace["traceEvents"]) {
    if (event.value("ph", "") == "C" && event["name"] == "memory of cpu") counters.push_back(event);
    if (event.value("ph", "") != "X" || event["args"].value("level", "") != "stage") continue;
    begin = std::min(begin, event["ts"].get<double>());
    end = std::max(end, event["ts"].get<double>() + event["dur"].get<double>());
  }
  ASSERT_GT(counters.size(), 10u);
  int within = 0;
  for (const Json& counter : counters) {
    EXPECT_GT(counter["args"]["transformer weights"], 0);
    within += counter["ts"].get<double>() >= begin && counter["ts"].get<double>() <= end ? 1 : 0;
  }
  EXPECT_GE(within, 0.8 * static_cast<double>(counters.size()));  // not what comes before and after
}

// Every event lies within one of the stages, or is none of the model's.
TEST_F(ProfileTest, TheTraceHasLayersWithinTheirBlocksAndStages) {
  const std::string path = File("trace.json");
  const Result result = Profile("--precision fp8 --trace " + path);
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json trace = Json::parse(ReadFile(path));
  std::vector<Json> stages, blocks, layers, operations;
  for (const Json& event : trace["traceEvents"]) {
    if (event.value("ph", "") != "X") continue;
    const std::string level = event["args"].value("level", "");
    if (level == "stage") stages.push_back(event);
    if (level == "module" && event["name"] == "transformer_blocks.1") blocks.push_back(event);
    if (level == "layer" && event["name"] == "ff.net.2") layers.push_back(event);
    if (event.value("cat", "") == "cpu_op" && event["name"] == "fresco::quantize_tokens") operations.push_back(event);
  }
  const auto within = [](const Json& inner, const Json& outer) {
    const double begin = inner["ts"], end = begin + inner["dur"].get<double>();
    constexpr double kRounding = 0.01;  // microseconds
    return begin >= outer["ts"].get<double>() - kRounding &&
           end <= outer["ts"].get<double>() + outer["dur"].get<double>() + kRounding;
  };
  ASSERT_EQ(stages.size(), 3u);
  ASSERT_EQ(blocks.size(), 1u);
  EXPECT_TRUE(within(blocks[0], stages[1]));
  const auto in_block = [&](const Json& layer) { return within(layer, blocks[0]); };
  EXPECT_EQ(std::count_if(layers.begin(), layers.end(), in_block), 1);
  ASSERT_FALSE(operations.empty());
  for (const Json& operation : operations)
    EXPECT_TRUE(within(operation, stages[0]) || within(operation, stages[1])) << operation.dump();
  EXPECT_FALSE(trace.contains("traceName"));
}

TEST_F(ProfileTest, APresetsStepsAreProfiledWithoutAModel) {
  const Result result =
      Run("profile --preset sd3.5-medium --layers 1 --width 64 --height 64 --steps 1 --precision fp32 --json");
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json report = result.json();
  ASSERT_EQ(report["stages"].size(), 1u);
  EXPECT_EQ(report["stages"][0]["name"], "step");
  EXPECT_FALSE(
      Named(report["stages"][0]["layers"], "transformer.transformer_blocks.0.attn.to_q, to_k, to_v").is_null());
}

TEST_F(ProfileTest, WhatCannotBeProfiledIsSaid) {
  EXPECT_THAT(Run("profile").errors, HasSubstr("either a model or --preset is needed"));
  EXPECT_THAT(Profile("--batch 0").errors, HasSubstr("--batch and --steps must be at least 1"));
  EXPECT_THAT(Profile("--layers 2").errors, HasSubstr("--layers goes with --preset"));
  const Result unwritable = Profile("--trace " + File("no/such/folder/trace.json"));
  EXPECT_EQ(unwritable.code, 1);
  EXPECT_THAT(unwritable.errors, HasSubstr("no/such/folder"));
}

}  // namespace
}  // namespace fresco
