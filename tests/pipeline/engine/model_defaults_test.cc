#include "pipeline/engine/model_defaults.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

namespace fresco {
namespace {

using ::testing::HasSubstr;

class ModelDefaultsTest : public ::testing::Test {
 protected:
  ModelDefaultsTest() {
    std::string name = (std::filesystem::temp_directory_path() / "fresco-defaults-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error(name);
    folder_ = name;
  }
  ~ModelDefaultsTest() override { std::filesystem::remove_all(folder_); }

  absl::StatusOr<ModelDefaults> Read(const std::string& text) const {
    std::ofstream(folder_ / "fresco.yaml") << text;
    return ReadModelDefaults(folder_ / "fresco.yaml");
  }

  std::filesystem::path folder_;
};

TEST_F(ModelDefaultsTest, NoFileNoDefaults) {
  const auto defaults = ReadModelDefaults(folder_ / "fresco.yaml");
  ASSERT_TRUE(defaults.ok());
  EXPECT_FALSE(defaults->steps.has_value());
}

TEST_F(ModelDefaultsTest, EmptyFileNoDefaults) {
  EXPECT_TRUE(Read("").ok());
  EXPECT_TRUE(Read("# nothing yet\n").ok());
}

TEST_F(ModelDefaultsTest, ReadsWhatIsThere) {
  const auto defaults = Read("steps: 20\nguidance_scale: 4.0\n");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->steps, 20);
  EXPECT_EQ(defaults->guidance_scale, 4.0f);
  EXPECT_FALSE(defaults->width.has_value());
}

TEST_F(ModelDefaultsTest, MistakesAreNamedByLineAndKey) {
  const std::pair<const char*, const char*> mistakes[] = {
      {"steps: 20\nstpes: 3\n", ":2: unknown key 'stpes'"},
      {"steps: twenty\n", ":1: steps: 'twenty'"},
      {"steps: 2.5\n", ":1: steps: '2.5'"},
      {"steps: [20]\n", ":1: steps: "},
      {"steps: ~\n", ":1: steps: "},
      {"# size\n\nwidth: 0\n", ":3: width: '0'"},
      {"height: -16\n", ":1: height: '-16'"},
      {"max_sequence_length: 100000\n", ":1: max_sequence_length: '100000'"},
      {"guidance_scale: .nan\n", ":1: guidance_scale: "},
      {"guidance_scale: -1\n", ":1: guidance_scale: '-1'"},
      {"attention: fp16\n", ":1: attention: 'fp16'"},
      {"steps: 3\nsteps: 4\n", ":2: steps: given twice"},
      {"- steps\n", ":1: "},
      {"steps: {\n", "fresco.yaml:"},
      {"\"st\\x1b[2Jps\": 3\n", ":1: unknown key 'st\\x1b[2Jps'"},
      {"steps: \"\\n\"\n", ":1: steps: '\\n'"},
  };
  for (const auto& [text, expected] : mistakes) {
    const auto defaults = Read(text);
    EXPECT_EQ(defaults.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(defaults.status().message()), HasSubstr(expected)) << text;
    EXPECT_THAT(std::string(defaults.status().message()), HasSubstr("fresco.yaml")) << text;
  }
}

}  // namespace
}  // namespace fresco
