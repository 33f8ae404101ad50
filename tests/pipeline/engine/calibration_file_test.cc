#include "pipeline/engine/calibration_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/engine/calibration_state.h"
#include "tests/pipeline/checkpoint/file_maker.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr float kThird = 1.0F / 3;

Calibration Example() {
  Calibration calibration;
  calibration.model = "models/\"demo\"";
  calibration.weights_digest = "sha256:00";
  calibration.prompts = 3;
  calibration.steps = 20;
  calibration.width = calibration.height = 128;
  calibration.guidance_scale = 3.1F;
  calibration.seed = std::numeric_limits<uint64_t>::max();
  calibration.buckets.upper = {1, kThird};
  LayerCalibration layer;
  layer.names = {"a.to_q", "a.to_k"};
  layer.ranges = {{7, -kThird, 0.1F, {0.01F, 0.02F, 1e-38F}}, {}};
  layer.channel_absmax = {kThird, 1e20F};
  layer.channel_mean = {-kThird, 0};
  layer.outputs = 96;
  layer.tokens = 12345678901;
  layer.sensitivity = {{"fp8", 0.0123F}};
  layer.input_sensitivity = {{"fp8", 0.004F}};
  layer.scheme = {{"fp8", LinearScheme::kHigh}, {"int8", LinearScheme::kInt8WeightOnly}};
  LayerCalibration bare;
  bare.names = {"b"};
  bare.outputs = 1;
  bare.ranges.resize(2);
  calibration.layers = {layer, bare};
  calibration.rounded_weights["fp8"] = "c.fp8.safetensors";
  calibration.noise_correction["fp8"] = {{{1.001F, 0.999F}, {0, -kThird}}, {{1, 1}, {0, 0}}};
  return calibration;
}

class CalibrationFileTest : public ::testing::Test {
 protected:
  // The example's file with `from` made `to`.
  std::string Damaged(const std::string& from, const std::string& to) {
    const std::string path = folder_.path() + "/c.json";
    EXPECT_TRUE(WriteCalibration(Example(), path).ok());
    std::ifstream file(path);
    std::string text((std::istreambuf_iterator<char>(file)), {});
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from << " in " << text;
    return folder_.Write("damaged.json", text.replace(at, from.size(), to));
  }
  std::string Refusal(const std::string& from, const std::string& to) {
    const auto read = ReadCalibration(Damaged(from, to));
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << from << " to " << to;
    return std::string(read.status().message());
  }
  TempFolder folder_;
};

TEST_F(CalibrationFileTest, WhatIsWrittenIsReadBackExactly) {
  const std::string path = folder_.path() + "/c.json";
  ASSERT_TRUE(WriteCalibration(Example(), path).ok());
  const auto read = ReadCalibration(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, Example());
  // A hidden file has its weights beside it as any other.
  EXPECT_TRUE(ReadCalibration(Damaged("\"c.fp8.safetensors\"", "\".c.fp8.safetensors\"")).ok());
}

TEST_F(CalibrationFileTest, AMissingFileAndAnUnwritablePlaceSaySo) {
  EXPECT_EQ(ReadCalibration(folder_.path() + "/none.json").status().code(), absl::StatusCode::kNotFound);
  const absl::Status status = WriteCalibration(Example(), folder_.path() + "/no/such/folder.json");
  EXPECT_THAT(std::string(status.message()), HasSubstr("no/such/folder.json"));
  const std::string taken = folder_.path() + "/taken";
  std::filesystem::create_directories(taken + "/by a folder");
  EXPECT_FALSE(WriteCalibration(Example(), taken).ok());
  EXPECT_FALSE(std::filesystem::exists(taken + ".part"));
}

TEST_F(CalibrationFileTest, RefusalsNameFileAndField) {
  const std::vector<std::pair<std::pair<std::string, std::string>, std::string>> kCases = {
      {{"\"fresco-calibration\"", "\"other\""}, "format: must be \"fresco-calibration\""},
      {{"\"version\": 1", "\"version\": 2"}, "version: must be 1, the only one that this program reads"},
      {{"\"steps\"", "\"stops\""}, "steps: missing"},
      {{"\"prompts\": 3", "\"prompts\": 3, \"colour\": 1"}, "colour: unknown key"},
      {{"\"prompts\": 3", "\"prompts\": 3, \"prompts\": 3"}, "\"prompts\" occurs twice"},
      {{"\"seed\": 1", "\"seed\": -1"}, "seed: must be a whole number of at least 0"},
      {{"\"sigma_buckets\": [1.0,", "\"sigma_buckets\": [0.2,"}, "sigma_buckets: must fall from 1"},
      {{"[\"a.to_q\",\"a.to_k\"]", "[\"a.to_q\",\"b\"]"}, "layers: 'b' is empty or named twice"},
      {{"[\"a.to_q\",\"a.to_k\"]", "[\"*\"]"}, "layers: '*' is a pattern, not a layer's name"},
      {{"[\"a.to_q\",\"a.to_k\"]", "[]"}, "layers[0].names: must name a layer"},
      {{"[\"a.to_q\",\"a.to_k\"]", "[7]"}, "layers[0].names[0]: must be a string"},
      {{"\"c.fp8.safetensors\"", "\"../c.safetensors\""},
       "rounded_weights: '../c.safetensors' is not the name of a file"},
      {{"\"c.fp8.safetensors\"", "\"..\""}, "rounded_weights: '..' is not the name of a file"},
      {{"{\"fp8\":\"c.fp8", "{\"fp4\":\"c.fp8"}, "rounded_weights: 'fp4' is no precision that quantises"},
      {{"\"noise_correction\": {\"fp8\"", "\"noise_correction\": {\"bf16\""},
       "noise_correction: 'bf16' is no precision"},
      {{"\"outputs\":96", "\"outputs\":0"}, "layers[0].outputs: must be a whole number from 1"},
      {{"\"count\":7", "\"count\":-7"}, "layers[0].ranges[0].count: must be a whole number"},
      {{"\"max\":0.1", "\"max\":-9"}, "layers[0].ranges[0].min: is above max"},
      {{"\"max\":0.1", "\"max\":1e39"}, "layers[0].ranges[0].max: must be a number within float's range"},
      {{"\"max\":0.1", "\"max\":0.1,\"mox\":0"}, "layers[0].ranges[0].mox: unknown key"},
      {{"\"percentiles\":[0.01", "\"percentiles\":[-0.01"}, "layers[0].ranges[0].percentiles: must not be below 0"},
      {{"\"channel_absmax\":[", "\"channel_absmax\":[-1,"}, "layers[0].channel_absmax: must not be below 0"},
      {{"\"fp8\":0.0123", "\"fp8\":-0.0123"}, "layers[0].sensitivity: must not be below 0"},
      {{"\"fp8\":0.0123", "\"fp9\":0.0123"}, "layers[0].sensitivity: 'fp9' is no precision that quantises"},
      {{"\"fp8\":\"high\"", "\"fp9\":\"high\""}, "layers[0].scheme: 'fp9' is no precision that quantises"},
      {{"\"fp8\":0.0123", "\"fp8\":\"much\""}, "layers[0].sensitivity.fp8: must be a number"},
      {{"\"fp8\":\"high\"", "\"fp8\":\"hi\""}, "layers[0].scheme: 'hi' is unknown"},
      {{"\"channel_mean\":[", "\"channel_mean\":[1,"}, "layers[0].channel_mean: must be as many as channel_absmax"},
      {{"\"scale\":[1.001", "\"scale\":[-1.001"}, "noise_correction.fp8.buckets[0].scale: must be above 0"},
      {{"\"scale\":[1.001,", "\"scale\":["}, "noise_correction.fp8.buckets[0].offset: must be as many as scale"},
  };
  for (const auto& [change, expected] : kCases)
    EXPECT_THAT(Refusal(change.first, change.second), AllOf(HasSubstr("damaged.json: "), HasSubstr(expected)));
  const auto not_json = ReadCalibration(folder_.Write("text.json", "calibration"));
  EXPECT_THAT(std::string(not_json.status().message()), HasSubstr("text.json: not JSON at byte"));
}

TEST_F(CalibrationFileTest, AStateIsReadBackExactly) {
  CalibrationState state;
  state.run = "ab";
  state.prompts_measured = 2;
  state.prompts_fitted = 1;
  state.sensitivity = {{"a", 0.1F}};
  state.input_sensitivity = {{"a", 0.05F}};
  LayerStatistics layer{{"a"}, 3, std::vector<InputStatistics>(2), ChannelStatistics(2)};
  layer.buckets[1].Add(std::vector<float>{kThird, -100, 0});
  layer.channels.Add(std::vector<float>{kThird, -100});
  state.layers = {layer};
  state.fits = {{{}, {}}, {{}, {}}};
  state.fits[1][0].Add(std::vector<float>{1, 2}, std::vector<float>{kThird, 2});
  const std::string path = folder_.path() + "/s.json";
  ASSERT_TRUE(WriteCalibrationState(state, path).ok());
  const auto read = ReadCalibrationState(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->run, state.run);
  EXPECT_EQ(read->prompts_measured, 2);
  EXPECT_EQ(read->prompts_fitted, 1);
  EXPECT_EQ(read->sensitivity, state.sensitivity);
  EXPECT_EQ(read->input_sensitivity, state.input_sensitivity);
  EXPECT_EQ(read->fits, state.fits);
  ASSERT_EQ(read->layers.size(), 1u);
  EXPECT_EQ(read->layers[0].names, layer.names);
  EXPECT_EQ(read->layers[0].outputs, 3);
  EXPECT_EQ(read->layers[0].channels, layer.channels);
  ASSERT_EQ(read->layers[0].buckets.size(), 2u);
  EXPECT_EQ(read->layers[0].buckets[0].counts(), layer.buckets[0].counts());
  EXPECT_EQ(read->layers[0].buckets[1].counts(), layer.buckets[1].counts());
}

// By its digest: a run trusts the sizes of what it has written itself.
TEST_F(CalibrationFileTest, ADamagedStateIsRefused) {
  CalibrationState state;
  state.layers = {{{"a"}, 3, std::vector<InputStatistics>(2), ChannelStatistics(2)}};
  const std::string path = folder_.path() + "/s.json";
  ASSERT_TRUE(WriteCalibrationState(state, path).ok());
  std::ifstream file(path);
  const std::string whole((std::istreambuf_iterator<char>(file)), {});
  ASSERT_TRUE(ReadCalibrationState(folder_.Write("same.json", whole)).ok());
  std::string other = whole;
  other.replace(other.find("[\"a\"]"), 5, "[]");
  for (const std::string& bad : {other, whole.substr(0, whole.size() / 2), whole + " ", std::string()}) {
    const auto read = ReadCalibrationState(folder_.Write("bad.json", bad));
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(read.status().message()), HasSubstr("bad.json: is damaged: start anew"));
  }
}

}  // namespace
}  // namespace fresco
