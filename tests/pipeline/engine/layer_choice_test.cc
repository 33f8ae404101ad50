#include "pipeline/engine/layer_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/engine/calibration_file.h"
#include "pipeline/engine/calibrator.h"
#include "tests/pipeline/checkpoint/file_maker.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kDemo[] = "models/demo";

LayerCalibration Layer(std::vector<std::string> names, int64_t outputs, float sensitivity) {
  LayerCalibration layer;
  layer.names = std::move(names);
  layer.outputs = outputs;
  layer.channel_absmax.resize(10);
  layer.sensitivity["fp8"] = sensitivity;
  return layer;
}

TEST(LayerChoiceTest, TheMostErrorPerByteComesFirst) {
  Calibration calibration;
  calibration.layers = {Layer({"large"}, 100, 0.02F), Layer({"small"}, 10, 0.015F), Layer({"q", "k"}, 20, 0.012F)};
  calibration.layers.emplace_back().names = {"unmeasured"};
  // Squared error per element: 4e-7, 22.5e-7, 7.2e-7.
  const auto order = WorthKeepingHigh(calibration, "fp8");
  std::vector<std::string> names;
  for (const LayerCalibration* layer : order) names.push_back(layer->names.front());
  EXPECT_THAT(names, ElementsAre("small", "q", "large"));
  EXPECT_TRUE(WorthKeepingHigh(calibration, "int8").empty());
}

class KeepPsnrTest : public ::testing::Test {
 protected:
  KeepPsnrTest() {
    CalibrationOptions calibrate;
    calibrate.model = kDemo;
    calibrate.threads = 1;
    calibrate.prompts = {"a red apple on a light blue background"};
    calibrate.steps = 3;
    calibrate.width = calibrate.height = 64;
    calibrate.sensitivity_samples = 2;
    const auto result = Calibrate(calibrate, [](const CalibrationProgress&) {});
    EXPECT_TRUE(result.ok()) << result.status();
    options_.load.path = kDemo;
    options_.load.precision = "fp8";
    options_.load.threads = 1;
    options_.load.calibration = folder_.path() + "/c.json";
    EXPECT_TRUE(WriteCalibration(result->calibration, options_.load.calibration).ok());
    ImageSpec spec;
    spec.prompt = "a fox on a white background";
    spec.width = spec.height = 64;
    spec.steps = 3;
    spec.guidance_scale = 3;
    spec.max_sequence_length = 16;
    options_.specs = {spec};
  }
  absl::StatusOr<KeptLayers> Keep(double psnr) {
    trials_.clear();
    options_.psnr = psnr;
    return KeepPsnr(options_, [&](size_t kept, double got) { trials_.emplace_back(kept, got); });
  }

  const TempFolder folder_;
  KeepPsnrOptions options_;
  std::vector<std::pair<size_t, double>> trials_;
};

TEST_F(KeepPsnrTest, KeepsNoMoreLayersThanItTakes) {
  const auto none = Keep(1);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_TRUE(none->rules.empty());
  const double target = none->psnr + 3;
  const auto some = Keep(target);
  ASSERT_TRUE(some.ok()) << some.status();
  EXPECT_FALSE(some->rules.empty());
  EXPECT_GE(some->psnr, target);
  EXPECT_EQ(some->psnr_without, none->psnr);
  // All that was tried with fewer layers was not enough.
  size_t least = SIZE_MAX;
  for (const auto& [kept, psnr] : trials_) least = psnr >= target ? std::min(least, kept) : least;
  for (const auto& [kept, psnr] : trials_) EXPECT_EQ(psnr >= target, kept >= least) << kept;
}

TEST_F(KeepPsnrTest, SaysWhatCannotBe) {
  options_.high = "bf16";  // which even all layers in fp32 differ from
  EXPECT_THAT(std::string(Keep(90).status().message()), HasSubstr("with every layer high the pictures have"));
  options_.load.precision = "int8";
  EXPECT_THAT(std::string(Keep(30).status().message()), HasSubstr("c.json: has no sensitivities for int8"));
  options_.specs.clear();
  EXPECT_THAT(std::string(Keep(30).status().message()), HasSubstr("nothing to draw"));
}

}  // namespace
}  // namespace fresco
