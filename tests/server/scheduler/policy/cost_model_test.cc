#include "server/scheduler/policy/cost_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "server/scheduler/policy/cost_model_file.h"

namespace fresco {
namespace {

using ::testing::HasSubstr;

TEST(CostModelTest, KnowsNothingAtFirst) {
  CostModel costs;
  EXPECT_EQ(costs.StepSeconds(costs.Curve("m", 1024), 2), 0);
  EXPECT_EQ(costs.ActivationBytes(costs.Curve("m", 1024), 2), 0);
}

TEST(CostModelTest, SaysWhatWasMeasured) {
  CostModel costs;
  const CurveId curve = costs.Curve("m", 1024);
  costs.RecordStep(curve, 2, absl::Milliseconds(30));
  costs.RecordStep(curve, 2, absl::Milliseconds(50));
  EXPECT_NEAR(costs.StepSeconds(curve, 2), 0.040, 0.001);
}

TEST(CostModelTest, FollowsADeviceThatBecomesSlower) {
  CostModel costs;
  const CurveId curve = costs.Curve("m", 1024);
  for (int i = 0; i < 100; ++i) costs.RecordStep(curve, 1, absl::Milliseconds(10));
  for (int i = 0; i < 100; ++i) costs.RecordStep(curve, 1, absl::Milliseconds(20));
  EXPECT_NEAR(costs.StepSeconds(curve, 1), 0.020, 0.0001);
}

TEST(CostModelTest, SizesKeepTheirProportionsWhileTheDeviceIsSlow) {
  CostModel costs;
  const CurveId curve = costs.Curve("m", 1024);
  for (int i = 0; i < 100; ++i) {
    costs.RecordStep(curve, 2, absl::Milliseconds(10));
    costs.RecordStep(curve, 4, absl::Milliseconds(14));
  }
  for (int i = 0; i < 30; ++i) costs.RecordStep(curve, 4, absl::Milliseconds(28));
  EXPECT_NEAR(costs.StepSeconds(curve, 4), 0.028, 0.002);
  EXPECT_NEAR(costs.StepSeconds(curve, 4) / costs.StepSeconds(curve, 2), 1.4, 0.14);
}

// 5 ms and 1 ms a row; the first step of a size allocates, compiles, pages in.
TEST(CostModelTest, ASlowFirstStepDoesNotMakeASizeUnattractive) {
  CostModel costs;
  const CurveId curve = costs.Curve("m", 1024);
  for (int rows : {1, 2, 4}) {
    for (int i = 0; i < 20; ++i) costs.RecordStep(curve, rows, absl::Milliseconds(5 + rows));
  }
  costs.RecordStep(curve, 8, absl::Milliseconds(40));
  EXPECT_LT(costs.StepSeconds(curve, 8), 0.020);
}

// Eight rows take 13 ms like the rest says, but 40 ms while something else was there.
TEST(CostModelTest, WhatASizeTookLongAgoIsForgottenForWhatTheOthersSay) {
  CostModel costs;
  const CurveId curve = costs.Curve("m", 1024);
  for (int rows : {1, 2, 4}) {
    for (int i = 0; i < 20; ++i) costs.RecordStep(curve, rows, absl::Milliseconds(5 + rows));
  }
  for (int i = 0; i < 20; ++i) costs.RecordStep(curve, 8, absl::Milliseconds(40));
  for (int i = 0; i < 200; ++i) costs.RecordStep(curve, 2, absl::Milliseconds(7));
  EXPECT_GT(costs.StepSeconds(curve, 8), 0.020);
  for (int i = 0; i < 1000; ++i) {
    for (int rows : {1, 2, 4}) costs.RecordStep(curve, rows, absl::Milliseconds(5 + rows));
  }
  EXPECT_NEAR(costs.StepSeconds(curve, 8), 0.013, 0.001);
}

TEST(CostModelTest, WhereNothingTellsBatchesAreTakenToPay) {
  CostModel costs;
  const CurveId curve = costs.Curve("m", 1024);
  costs.RecordStep(curve, 2, absl::Milliseconds(10));
  EXPECT_LT(costs.StepSeconds(curve, 4), 0.018);
  EXPECT_GT(costs.StepSeconds(curve, 4), 0.012);
}

TEST(CostModelTest, OneStepOutOfAllProportionChangesLittle) {
  CostModel costs;
  const CurveId curve = costs.Curve("m", 1024);
  for (int i = 0; i < 20; ++i) costs.RecordStep(curve, 1, absl::Milliseconds(10));
  costs.RecordStep(curve, 1, absl::Seconds(10));
  EXPECT_LT(costs.StepSeconds(curve, 1), 0.015);
}

// A device whose steps take 5 ms and 1 us for each unit of work: what is on that line is predicted without having run.
TEST(CostModelTest, PredictsSizesAndRowsThatHaveNotRun) {
  CostModel costs;
  const auto seconds = [](int tokens, int rows) { return 0.005 + 1e-6 * rows * RelativeWork(tokens); };
  for (int rows : {1, 2, 8}) {
    for (int tokens : {1357, 4429}) {
      costs.RecordStep(costs.Curve("m", tokens), rows, absl::Seconds(seconds(tokens, rows)));
    }
  }
  EXPECT_NEAR(costs.StepSeconds(costs.Curve("m", 1357), 4) / seconds(1357, 4), 1, 1e-3);
  EXPECT_NEAR(costs.StepSeconds(costs.Curve("m", 2333), 6) / seconds(2333, 6), 1, 1e-3);
  EXPECT_NEAR(costs.StepSeconds(costs.Curve("m", 4429), 16) / seconds(4429, 16), 1, 1e-3);
}

TEST(CostModelTest, WhatASizeIsOffTheLineByHoldsForItsOtherRows) {
  CostModel costs;
  for (int rows : {1, 2, 4}) {
    for (int tokens : {1024, 2048, 4096}) {
      costs.RecordStep(costs.Curve("m", tokens), rows, absl::Seconds(0.001 + 1e-6 * rows * RelativeWork(tokens)));
    }
  }
  const CurveId slow = costs.Curve("m", 3000);
  costs.RecordStep(slow, 2, absl::Seconds(2 * (0.001 + 2e-6 * RelativeWork(3000))));
  EXPECT_GT(costs.StepSeconds(slow, 4), 1.7 * (0.001 + 4e-6 * RelativeWork(3000)));
}

TEST(CostModelTest, ModelsDoNotMix) {
  CostModel costs;
  costs.RecordStep(costs.Curve("large", 1024), 1, absl::Seconds(1));
  EXPECT_EQ(costs.StepSeconds(costs.Curve("small", 1024), 1), 0);
}

TEST(CostModelTest, MemoryIsTheMostSeenAndScalesUp) {
  CostModel costs;
  const CurveId curve = costs.Curve("m", 1000);
  costs.RecordMemory(curve, 2, 200'000);
  costs.RecordMemory(curve, 2, 100'000);
  EXPECT_EQ(costs.ActivationBytes(curve, 2), 200'000);
  EXPECT_EQ(costs.ActivationBytes(curve, 4), 400'000);
  EXPECT_EQ(costs.ActivationBytes(costs.Curve("m", 3000), 2), 600'000);
}

// A step's workspaces do not grow with it: the nearest that was seen tells best.
TEST(CostModelTest, MemoryOfMoreRowsIsThatOfTheNextFewerScaledUp) {
  CostModel costs;
  costs.RecordMemory(costs.Curve("m", 10), 1, 100'000);
  const CurveId curve = costs.Curve("m", 1000);
  EXPECT_EQ(costs.ActivationBytes(curve, 4), 40'000'000);
  costs.RecordMemory(curve, 1, 200'000);
  costs.RecordMemory(curve, 2, 300'000);
  EXPECT_EQ(costs.ActivationBytes(curve, 4), 600'000);
}

TEST(CostModelTest, TheLeastThatAStepNeedsIsWhatASmallerOneWasSeenToUse) {
  CostModel costs;
  const CurveId curve = costs.Curve("m", 1000);
  costs.RecordMemory(curve, 2, 200'000);
  costs.RecordMemory(costs.Curve("other", 10), 1, 900'000);
  EXPECT_EQ(costs.LeastActivationBytes(curve, 2), 200'000);
  EXPECT_EQ(costs.LeastActivationBytes(curve, 1), 0);
  EXPECT_EQ(costs.LeastActivationBytes(costs.Curve("m", 2000), 4), 200'000);
  EXPECT_EQ(costs.LeastActivationBytes(costs.Curve("m", 500), 4), 0);
  // What a file says may be of other settings.
  ASSERT_TRUE(costs.Add({"m", 1000, 1, 1.0, 1, 800'000}).ok());
  EXPECT_EQ(costs.LeastActivationBytes(curve, 2), 200'000);
  EXPECT_EQ(costs.ActivationBytes(curve, 1), 800'000);
}

TEST(CostModelTest, TypesOfDevicesLearnApart) {
  CostModel costs;
  const CurveId curve = costs.Curve("m", 1000);
  const CostTypeId cpu = costs.Type("cpu"), cuda = costs.Type("cuda");
  costs.SetPresent(cpu, "m", true);
  costs.SetPresent(cuda, "m", true);
  for (int i = 0; i < 20; ++i) {
    costs.MutableOf(cpu)->RecordStep(curve, 2, absl::Seconds(10));
    costs.MutableOf(cuda)->RecordStep(curve, 2, absl::Milliseconds(100));
  }
  costs.MutableOf(cpu)->RecordMemory(curve, 2, 1000);
  EXPECT_NEAR(costs.Of(cpu).StepSeconds(curve, 2), 10, 0.01);
  EXPECT_NEAR(costs.Of(cuda).StepSeconds(curve, 2), 0.1, 0.0001);
  EXPECT_EQ(costs.Of(cuda).ActivationBytes(curve, 2), 0);
  // Of no device yet: as the fastest that has the model.
  EXPECT_NEAR(costs.StepSeconds(curve, 2), 0.1, 0.0001);
  costs.SetPresent(cuda, "m", false);
  EXPECT_NEAR(costs.StepSeconds(curve, 2), 10, 0.01);
  // A curve that comes later is everybody's.
  const CurveId later = costs.Curve("m", 2000);
  costs.MutableOf(cuda)->RecordStep(later, 1, absl::Seconds(1));
  EXPECT_GT(costs.Of(cuda).StepSeconds(later, 1), 0);
  EXPECT_LT(costs.Of(cuda).StepSeconds(later, 1), costs.Of(cpu).StepSeconds(later, 1));
}

TEST(CostModelTest, ATypeBeginsWithWhatIsKnownWithoutOneUnlessItKnowsTheModel) {
  CostModel costs;
  ASSERT_TRUE(costs.Add({"m", 1000, 1, 1.0, 10, 500, "cuda"}).ok());
  ASSERT_TRUE(costs.Add({"m", 1000, 1, 7.0, 10, 700}).ok());
  ASSERT_TRUE(costs.Add({"other", 1000, 1, 3.0, 10, 300}).ok());
  const CostTypeId cuda = costs.Type("cuda"), cpu = costs.Type("cpu");
  const CurveId curve = costs.Curve("m", 1000), other = costs.Curve("other", 1000);
  EXPECT_NEAR(costs.Of(cuda).StepSeconds(curve, 1), 1, 1e-6);
  EXPECT_NEAR(costs.Of(cuda).StepSeconds(other, 1), 3, 1e-6);
  EXPECT_NEAR(costs.Of(cpu).StepSeconds(curve, 1), 7, 1e-6);
  EXPECT_EQ(costs.Of(cpu).ActivationBytes(curve, 1), 700);
}

TEST(CostModelFileTest, ComesBackAsItWas) {
  CostModel costs;
  costs.RecordStep(costs.Curve("a", 1024), 2, absl::Milliseconds(31));
  costs.RecordStep(costs.Curve("b", 4429), 16, absl::Seconds(1.25));
  costs.RecordMemory(costs.Curve("a", 1024), 2, 12345678901);
  costs.MutableOf(costs.Type("cuda"))->RecordStep(costs.Curve("c", 512), 4, absl::Seconds(2));
  const auto path = std::filesystem::path(::testing::TempDir()) / "cost_model_test.json";
  ASSERT_TRUE(SaveCostModel(costs, path.string()).ok());
  const absl::StatusOr<CostModel> loaded = LoadCostModel(path.string());
  std::filesystem::remove(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->Measured(), costs.Measured());
  EXPECT_EQ(costs.Measured().size(), 5u);  // of "cuda" two, which it has begun with
}

// As servers wrote them that knew no types.
TEST(CostModelFileTest, EntriesWithoutATypeCountForEveryTypeThatHasNone) {
  absl::StatusOr<CostModel> costs = CostModelFromJson(R"({"format": "fresco-cost-model", "version": 1, "steps": [
      {"model": "m", "tokens": 10, "rows": 1, "seconds": 2, "count": 5, "activation_bytes": 0},
      {"model": "m", "tokens": 10, "rows": 1, "seconds": 1, "count": 5, "activation_bytes": 0, "type": "cuda"}]})");
  ASSERT_TRUE(costs.ok()) << costs.status();
  const CurveId curve = costs->Curve("m", 10);
  EXPECT_NEAR(costs->Of(costs->Type("cpu")).StepSeconds(curve, 1), 2, 1e-6);
  EXPECT_NEAR(costs->Of(costs->Type("cuda")).StepSeconds(curve, 1), 1, 1e-6);
}

TEST(CostModelFileTest, AFileThatIsNotThereIsNotFound) {
  const auto loaded = LoadCostModel("/nonexistent/costs.json");
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("/nonexistent/costs.json"));
}

// Printing it would take a stack frame for each bracket.
TEST(CostModelFileTest, AVersionThatIsNestedDeepIsRefused) {
  constexpr size_t kDepth = 500'000;
  const auto model = CostModelFromJson(R"({"format": "fresco-cost-model", "steps": [], "version": )" +
                                       std::string(kDepth, '[') + std::string(kDepth, ']') + "}");
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("version none"));
}

struct BadFile {
  std::string name, json, says;
};

class BadCostModelFileTest : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadCostModelFileTest, IsRefusedWithItsFault) {
  const auto model = CostModelFromJson(GetParam().json);
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(model.status().message()), HasSubstr(GetParam().says));
}

std::string WithStep(const std::string& step) {
  return R"({"format": "fresco-cost-model", "version": 1, "steps": [)" + step + "]}";
}

INSTANTIATE_TEST_SUITE_P(
    CostModelFile, BadCostModelFileTest,
    ::testing::Values(
        BadFile{"NotJson", "steps:", "not JSON"}, BadFile{"Truncated", R"({"format": "fresco-cost)", "not JSON"},
        BadFile{"SomethingElse", R"({"model": 1})", "format"},
        BadFile{"NewerVersion", R"({"format": "fresco-cost-model", "version": 2, "steps": []})", "version 2"},
        BadFile{"NoSteps", R"({"format": "fresco-cost-model", "version": 1})", "'steps' is missing"},
        BadFile{
            "UnknownKey",
            WithStep(
                R"({"model": "m", "tokens": 1, "rows": 1, "seconds": 1, "count": 1, "activation_bytes": 0, "x": 1})"),
            "steps[0]: unknown key 'x'"},
        BadFile{"UnprintableKey", R"({"format": "fresco-cost-model", "version": 1, "steps": [], "\u001b[31m": 1})",
                R"('\x1b[31m')"},
        BadFile{"NegativeSeconds",
                WithStep(R"({"model": "m", "tokens": 1, "rows": 1, "seconds": -1, "count": 1, "activation_bytes": 0})"),
                "steps[0]: seconds: must be from 1e-9 to 1e6"},
        BadFile{"TinySeconds", WithStep(R"({"model": "m", "tokens": 1, "rows": 1, "seconds": 1e-320, "count": 1,
                            "activation_bytes": 0})"),
                "steps[0]: seconds: must be from"},
        BadFile{"HugeCount",
                WithStep(R"({"model": "m", "tokens": 1, "rows": 1, "seconds": 1, "count": 9223372036854775807,
                            "activation_bytes": 0})"),
                "steps[0]: count: must be from"},
        BadFile{"HugeBytes", WithStep(R"({"model": "m", "tokens": 1, "rows": 1, "seconds": 1, "count": 1,
                            "activation_bytes": 9223372036854775807})"),
                "steps[0]: activation_bytes: must be from"},
        BadFile{
            "HugeRows",
            WithStep(
                R"({"model": "m", "tokens": 1, "rows": 99999999999, "seconds": 1, "count": 1, "activation_bytes": 0})"),
            "rows: is out of range"},
        BadFile{
            "FractionalTokens",
            WithStep(R"({"model": "m", "tokens": 1.5, "rows": 1, "seconds": 1, "count": 1, "activation_bytes": 0})"),
            "tokens: must be an integer"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace fresco
