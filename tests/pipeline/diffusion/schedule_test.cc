#include "pipeline/diffusion/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/safetensors.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// What diffusers' scheduler gives (tests/reference/make_reference.py).
class ScheduleReference : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    file_ = SafetensorsFile::Open("tests/reference/results/schedules.safetensors").value();
  }
  static void TearDownTestSuite() { file_ = nullptr; }

  static std::vector<float> Expected(const std::string& name) {
    const TensorView view = file_->Find(name).value();
    std::vector<float> values(static_cast<size_t>(view.numel()));
    std::memcpy(values.data(), view.data, view.bytes);
    return values;
  }

  static std::shared_ptr<const SafetensorsFile> file_;
};
std::shared_ptr<const SafetensorsFile> ScheduleReference::file_;

TEST_F(ScheduleReference, EverySigmaAndTimestepIsDiffusersBitForBit) {
  int compared = 0;
  for (const double shift : {1.0, 1.5, 3.0, 6.0}) {
    for (const int steps : {1, 2, 3, 4, 5, 7, 10, 20, 28, 40, 49, 50, 100, 1000}) {
      const std::string prefix = absl::StrCat("shift_", static_cast<int>(shift), shift == 1.5 ? ".5" : ".0", ".");
      const Schedule schedule = MakeSchedule({1000, shift}, steps);
      EXPECT_EQ(schedule.sigmas, Expected(absl::StrCat(prefix, "sigmas.", steps))) << prefix << steps;
      if (shift == 3.0) {
        EXPECT_EQ(schedule.timesteps, Expected(absl::StrCat(prefix, "timesteps.", steps))) << steps;
      }
      ++compared;
    }
  }
  EXPECT_EQ(compared, 56);
}

TEST(Schedule, ShiftIsAppliedTwice) {
  // docs/facts/sd35.md: the last sigma that is not zero, at shift 3, is 3s / (1 + 2s) of s = 0.003 / 1.002.
  const Schedule schedule = MakeSchedule({1000, 3.0}, 28);
  const double once = 0.003 / 1.002;
  EXPECT_NEAR(schedule.sigmas[27], 3 * once / (1 + 2 * once), 1e-7);
  EXPECT_EQ(schedule.sigmas.back(), 0.0f);
  EXPECT_EQ(schedule.sigmas.front(), 1.0f);
}

class ScheduleFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "fresco-schedule-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  absl::StatusOr<ScheduleConfig> Read(const std::string& json) const {
    const std::string path = folder_ / "scheduler_config.json";
    std::ofstream(path) << json;
    return ReadScheduleConfig(path);
  }

  std::filesystem::path folder_;
};

TEST_F(ScheduleFile, ReadsShiftAndTrainTimesteps) {
  const auto config =
      Read(R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.5, "num_train_timesteps": 500,
                              "use_karras_sigmas": false, "shift_terminal": null})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->shift, 2.5);
  EXPECT_EQ(config->train_timesteps, 500);
}

TEST_F(ScheduleFile, ShiftDefaultsToDiffusersOne) {
  EXPECT_EQ(Read("{}")->shift, 1.0);
}

TEST_F(ScheduleFile, AnotherScheduleIsRefusedByName) {
  for (const char* key : {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting",
                          "invert_sigmas", "stochastic_sampling"}) {
    const auto config = Read(absl::StrCat("{\"", key, "\": true}"));
    EXPECT_EQ(config.status().code(), absl::StatusCode::kUnimplemented) << key;
    EXPECT_THAT(std::string(config.status().message()), AllOf(HasSubstr("scheduler_config.json"), HasSubstr(key)));
  }
  EXPECT_EQ(Read(R"({"_class_name": "DDIMScheduler"})").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(Read(R"({"shift_terminal": 0.02})").status().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(ScheduleFile, ImpossibleValuesNameFileAndKey) {
  for (const char* json : {R"({"shift": 0})", R"({"shift": -3})", R"({"shift": "three"})", R"({"shift": 1e9})"}) {
    const auto config = Read(json);
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(std::string(config.status().message()), AllOf(HasSubstr("scheduler_config.json"), HasSubstr("shift")));
  }
}

}  // namespace
}  // namespace fresco
