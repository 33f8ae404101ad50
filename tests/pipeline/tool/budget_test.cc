// `inspect --budget` and `draw --budget`, as a person meets them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "tests/pipeline/tool/tool_runner.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST_F(ToolTest, InspectSaysWhatFits) {
  const Result fits = Run("inspect models/demo --precision fp32 --budget 1GiB");
  EXPECT_EQ(fits.code, 0) << fits.errors;
  EXPECT_THAT(fits.output, AllOf(HasSubstr("fits: at most "), HasSubstr("decode"), HasSubstr("the most"),
                                 HasSubstr("text_encoder_3"), HasSubstr("to spare")));
  const Result tight = Run("inspect models/demo --precision fp32 --budget 40MiB");
  EXPECT_EQ(tight.code, 1);
  EXPECT_THAT(tight.output, AllOf(HasSubstr("does not fit: "), HasSubstr("more than the budget of 40 MiB"),
                                  HasSubstr("What would fit: "), HasSubstr("precision: fp8")));
}

TEST_F(ToolTest, InspectCountsABudgetInJson) {
  const Result result = Run("inspect models/demo --precision fp32 --budget 1GiB --width 256 --batch 2 --json");
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json report = result.json();
  EXPECT_EQ(report.at("budget_bytes"), int64_t{1} << 30);
  EXPECT_EQ(report.at("fits"), true);
  EXPECT_EQ(report.at("all_kept"), true);
  EXPECT_EQ(report.at("width"), 256);
  EXPECT_EQ(report.at("batch"), 2);
  int64_t weights = 0, most = 0;
  for (const Json& component : report.at("components")) weights += component.at("weight_bytes").get<int64_t>();
  for (const Json& stage : report.at("stages")) {
    EXPECT_EQ(stage.at("weight_bytes"), weights);
    most = std::max(most, stage.at("total_bytes").get<int64_t>());
  }
  EXPECT_EQ(report.at("peak_bytes"), most);
  EXPECT_EQ(report.at("headroom_bytes"), (int64_t{1} << 30) - most);
}

TEST_F(ToolTest, InspectKnowsPublishedModelsWithoutTheirFiles) {
  const Result result = Run("inspect --preset sd3.5-medium --precision fp8 --device cuda:0 --budget 8GiB --json");
  ASSERT_EQ(result.code, 0) << result.errors;
  EXPECT_EQ(result.json().at("fits"), true);
  EXPECT_EQ(result.json().at("all_kept"), false);
  EXPECT_EQ(Run("inspect --preset sd3.5-medium").code, 2);
  EXPECT_EQ(Run("inspect models/demo --width 256").code, 2);
  EXPECT_THAT(Run("inspect --preset sd9 --budget 8GiB").errors, HasSubstr("sd3.5-medium"));
  EXPECT_THAT(Run("inspect models/demo --budget 8GiB --width 100").errors, HasSubstr("--width: 100 is not a multiple"));
}

TEST_F(ToolTest, DrawsWithinABudgetAndSaysWhatWasLoaded) {
  const std::string draw = "draw models/demo --prompt 'a red apple' --precision fp32 --steps 1 --json --output ";
  const Result whole = Run(draw + File("whole.png"));
  ASSERT_EQ(whole.code, 0) << whole.errors;
  EXPECT_EQ(whole.json().at("residency").size(), 0u);
  const Json least = Run("inspect models/demo --precision fp32 --budget 1 --json").json();
  const int64_t budget = least.at("peak_bytes").get<int64_t>() * 103 / 100;
  const Result within = Run(draw + File("within.png") + " --budget " + std::to_string(budget));
  ASSERT_EQ(within.code, 0) << within.errors;
  EXPECT_LE(within.json().at("peak_memory_bytes").get<int64_t>(), budget);
  EXPECT_GT(whole.json().at("peak_memory_bytes").get<int64_t>(), budget);
  EXPECT_EQ(within.json().at("residency").size(), 4u);
  for (const Json& component : within.json().at("residency")) EXPECT_GE(component.at("loads").get<int64_t>(), 1);
  EXPECT_EQ(ReadFile(File("within.png")), ReadFile(File("whole.png")));
}

}  // namespace
}  // namespace fresco
