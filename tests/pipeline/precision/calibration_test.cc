#include "pipeline/precision/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;

LayerCalibration Layer(std::vector<std::string> names, float min, float max) {
  LayerCalibration layer;
  layer.names = std::move(names);
  layer.ranges = {{10, -0.5F, 0.5F, {}}, {10, min, max, {}}};
  return layer;
}

TEST(SigmaBucketsTest, EveryLevelHasItsBucket) {
  const SigmaBuckets buckets{{1, 0.75F, 0.25F}};
  EXPECT_EQ(buckets.Of(2), 0u);
  EXPECT_EQ(buckets.Of(1), 0u);
  EXPECT_EQ(buckets.Of(0.76F), 0u);
  EXPECT_EQ(buckets.Of(0.75F), 1u);
  EXPECT_EQ(buckets.Of(0.25F), 2u);
  EXPECT_EQ(buckets.Of(0), 2u);
}

TEST(SigmaBucketsTest, StepsAreDividedEvenlyAndNoEdgeLiesOnOne) {
  const std::vector<float> sigmas = {1, 0.9F, 0.8F, 0.6F, 0.4F, 0.2F, 0};  // six steps
  const SigmaBuckets buckets = BucketsOf(sigmas, 3);
  EXPECT_THAT(buckets.upper, ElementsAre(1, FloatEq(0.85F), FloatEq(0.5F)));
  std::vector<int> steps(3);
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) ++steps[buckets.Of(sigmas[i])];
  EXPECT_THAT(steps, ElementsAre(2, 2, 2));
  EXPECT_EQ(BucketsOf(sigmas, 100).size(), 6u);  // not more than steps
  EXPECT_EQ(BucketsOf({1, 0}, 10).size(), 1u);
}

TEST(CalibrationTest, StaticScalesLetNothingSeenSaturate) {
  const LayerCalibration layer = Layer({"a"}, -896, 20);
  EXPECT_EQ(layer.absmax(), 896);
  EXPECT_EQ(layer.InputScale(LinearScheme::kFp8), 2);  // 896 / 448
  EXPECT_EQ(layer.InputScale(LinearScheme::kInt8), 896.0F / 127);
  EXPECT_EQ(layer.InputScale(LinearScheme::kFp8WeightOnly), std::nullopt);
  // Neither 0 nor infinite, nor is its reciprocal.
  for (const float largest : {0.0F, 1e-44F, 1e-36F, std::numeric_limits<float>::infinity()}) {
    LayerCalibration odd = Layer({"a"}, 0, 0);
    odd.ranges = {{10, -largest, 0, {}}};
    EXPECT_EQ(odd.InputScale(LinearScheme::kFp8), std::nullopt) << largest;
    EXPECT_EQ(odd.InputScale(LinearScheme::kInt8), std::nullopt) << largest;
  }
}

TEST(CalibrationTest, HasRulesForItsPrecisionAlone) {
  Calibration calibration;
  calibration.layers = {Layer({"q", "k"}, -448, 0), Layer({"up"}, -448, 0)};
  calibration.layers[0].scheme["fp8"] = LinearScheme::kHigh;
  EXPECT_TRUE(RulesOf(calibration, "int8").empty());
  const std::vector<LayerTable::Rule> rules = RulesOf(calibration, "fp8");
  ASSERT_EQ(rules.size(), 2u);
  EXPECT_EQ(rules[1].pattern, "k");
  EXPECT_EQ(rules[1].scheme, LinearScheme::kHigh);
}

TEST(CalibrationTest, StaticScalesAreOfLayersWithQuantisedInputs) {
  Calibration calibration;
  calibration.layers = {Layer({"q"}, -448, 0), Layer({"up"}, -448, 0)};
  LayerTable table({{"*", LinearScheme::kFp8}, {"up", LinearScheme::kHigh}});
  EXPECT_EQ(table.InputScaleOf("q"), std::nullopt);
  SetStaticScales(calibration, &table);
  EXPECT_EQ(table.InputScaleOf("q"), 1);
  EXPECT_EQ(table.InputScaleOf("up"), std::nullopt);
}

TEST(CalibrationTest, KeepsInputsHighWhereThatHelpsMostForItsWork) {
  const auto layer = [](const char* name, int64_t outputs, float error) {
    LayerCalibration made = Layer({name}, -1, 1);
    made.outputs = outputs;
    made.tokens = 10;
    made.channel_absmax.resize(4);
    made.input_sensitivity["fp8"] = error;
    return made;
  };
  Calibration calibration;
  // Squared error for the work: 1, 9 / 2, 16 / 50, 4 / 1 of some unit; there are 54 units.
  calibration.layers = {layer("a", 1, 1), layer("b", 2, 3), layer("c", 50, 4), layer("d", 1, 2)};
  calibration.layers.push_back(Layer({"unmeasured"}, -1, 1));
  KeepInputsHigh("fp8", LayerTable({{"*", LinearScheme::kFp8}}), 0.06, &calibration);  // 3.24 units
  std::vector<std::string> kept;
  for (const LayerTable::Rule& rule : RulesOf(calibration, "fp8")) {
    EXPECT_EQ(rule.scheme, LinearScheme::kFp8WeightOnly);
    kept.push_back(rule.pattern);
  }
  EXPECT_THAT(kept, ElementsAre("b", "d"));
}

TEST(CalibrationTest, FindsALayerByAnyOfItsNames) {
  Calibration calibration;
  calibration.layers = {Layer({"a", "b"}, 0, 1)};
  EXPECT_EQ(calibration.Find("b"), &calibration.layers[0]);
  EXPECT_EQ(calibration.Find("c"), nullptr);
}

}  // namespace
}  // namespace fresco
