// `fresco-model inspect --activations`: its table, its JSON, its page, its pictures.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "pipeline/image/codec.h"
#include "tests/pipeline/tool/tool_runner.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kRequest[] = " --width 64 --height 48 --steps 2 --guidance 3 --max-sequence-length 16 --threads 1";

class ActivationsTest : public ToolTest {
 protected:
  Result Inspect(const std::string& arguments) const {
    return Run("inspect --activations " + std::string(kMedium) + kRequest + " " + arguments);
  }
};

Json LayerOf(const Json& report, const std::string& name) {
  for (const Json& layer : report["layers"]) {
    if (layer["name"] == name) return layer;
  }
  return nullptr;
}

TEST_F(ActivationsTest, JsonHasEveryLayerAndStep) {
  std::ofstream(File("prompts.txt")) << "a red apple\na fox\n";
  const Result result = Inspect("--json --precision fp8 --against fp32 --seed 7 --prompts " + File("prompts.txt"));
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json report = result.json();
  EXPECT_EQ(report["precision"], "fp8");
  EXPECT_EQ(report["against"], "fp32");
  EXPECT_EQ(report["steps"], 2);
  EXPECT_THAT(report["notes"].dump(), HasSubstr("fp8: emulated"));
  EXPECT_EQ(report["prompts"], Json::parse(R"([{"prompt":"a red apple","seed":7},{"prompt":"a fox","seed":8}])"));
  const Json layer = LayerOf(report, "transformer.transformer_blocks.1.ff.net.2");
  ASSERT_FALSE(layer.is_null());
  EXPECT_EQ(layer["kind"], "linear");
  EXPECT_EQ(layer["scheme"], "fp8");
  ASSERT_EQ(layer["steps"].size(), 3u);
  EXPECT_TRUE(layer["steps"][2].is_null());  // the decoding
  EXPECT_EQ(layer["all"]["elements"],
            layer["steps"][0]["elements"].get<int64_t>() + layer["steps"][1]["elements"].get<int64_t>());
  EXPECT_GT(layer["all"]["own_db"], 20);
  EXPECT_GE(layer["all"]["absmax"], layer["all"]["percentiles"]["99.9"]);
  EXPECT_GE(layer["all"]["percentiles"]["99.9"], layer["all"]["percentiles"]["99"]);
  EXPECT_EQ(LayerOf(report, "vae.image")["kind"], "stage");
  ASSERT_FALSE(report["ranked"].empty());
  const auto own = [&](const Json& name) { return LayerOf(report, name)["all"]["own_db"].get<double>(); };
  EXPECT_LE(own(report["ranked"].front()), own(report["ranked"].back()));
}

TEST_F(ActivationsTest, TheTableAndThePageSayTheSame) {
  const Result result = Inspect("--precision int8 --against fp32 --prompt 'a <fox> & co' --html " + File("page.html"));
  ASSERT_EQ(result.code, 0) << result.errors;
  EXPECT_THAT(result.output, AllOf(HasSubstr("int8 on cpu"), HasSubstr("against fp32"), HasSubstr("own dB"),
                                   HasSubstr("transformer.transformer_blocks.0.attn.to_q (+ 2)"),
                                   HasSubstr("quantised linears by the noise of their own, the worst first")));
  const std::string page = ReadFile(File("page.html"));
  EXPECT_THAT(page, AllOf(HasSubstr("a &lt;fox&gt; &amp; co"), Not(HasSubstr("<fox>")), HasSubstr("<svg"),
                          HasSubstr("transformer.transformer_blocks.0.attn.to_q"), HasSubstr("Largest magnitude")));
  // Self-contained.
  EXPECT_THAT(page, AllOf(Not(HasSubstr("<script")), Not(HasSubstr("http")), Not(HasSubstr("src="))));
}

TEST_F(ActivationsTest, FeatureMapsAreAPictureForEachStep) {
  const Result result = Inspect("--json --features transformer.block.0.image -o " + folder_.string());
  ASSERT_EQ(result.code, 0) << result.errors;
  const auto files = result.json()["features"].get<std::vector<std::string>>();
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[1], File("transformer.block.0.image-001.png"));
  // 48 channels of 4 x 3 patches, each 96 x 72 pixels on a sheet of 7 columns.
  const Image sheet = DecodeImage(ReadFile(files[0])).value().image;
  EXPECT_GE(sheet.width, 7 * 96);
  EXPECT_EQ(Inspect("--features transformer.nothing -o " + folder_.string()).code, 1);
  const Result nowhere = Inspect("--features transformer.block.0.image -o " + File("nowhere"));
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_THAT(nowhere.errors, HasSubstr("nowhere: is no folder"));
}

TEST_F(ActivationsTest, WhatNeedsADrawingSaysSo) {
  for (const char* option : {"--against fp32", "--steps 2", "--features x", "--prompt x"}) {
    const Result result = Run("inspect " + std::string(kMedium) + " " + option);
    EXPECT_EQ(result.code, 2) << option;
    EXPECT_THAT(result.errors, HasSubstr("--activations")) << option;
  }
}

}  // namespace
}  // namespace fresco
