#include "server/log/logger.h"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;

class LoggerTest : public ::testing::Test {
 protected:
  std::vector<std::string> Write(LogConfig config, LogLevel level, const LogFields& fields) {
    std::vector<std::string> lines;
    const Logger logger(config, &clock_, [&](std::string_view line) { lines.emplace_back(line); });
    logger.Log(level, "event", fields);
    return lines;
  }
  FakeClock clock_{absl::FromUnixMillis(1'700'000'000'123)};
};

TEST_F(LoggerTest, TextIsForPeople) {
  EXPECT_THAT(
      Write({}, LogLevel::kInfo,
            {{"id", "a-1"},
             {"count", int64_t{3}},
             {"share", 0.25},
             {"on", true},
             {"message", "two words"},
             {"none", ""}}),
      ElementsAre(
          "2023-11-14T22:13:20.123Z INFO  event id=a-1 count=3 share=0.25 on=true message=\"two words\" none=\"\""));
}

// Whatever a client puts into a field stays inside it.
TEST_F(LoggerTest, NoFieldBreaksTheLine) {
  const LogFields fields = {{"prompt", "a\n2023 ERROR forged=\"1\""}, {"bytes", std::string("\xff\x00", 2)}};
  EXPECT_THAT(Write({}, LogLevel::kInfo, fields),
              ElementsAre("2023-11-14T22:13:20.123Z INFO  event prompt=\"a\\n2023 ERROR forged=\\\"1\\\"\" "
                          "bytes=\"\xef\xbf\xbd\\u0000\""));
  LogConfig json;
  json.format = LogFormat::kJson;
  const auto lines = Write(json, LogLevel::kInfo, fields);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].find('\n'), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(lines[0]).at("prompt"), "a\n2023 ERROR forged=\"1\"");
}

TEST_F(LoggerTest, JsonIsForMachines) {
  LogConfig config;
  config.format = LogFormat::kJson;
  EXPECT_THAT(
      Write(config, LogLevel::kError, {{"id", "a"}, {"seed", uint64_t{18446744073709551615u}}}),
      ElementsAre(
          R"({"time":"2023-11-14T22:13:20.123Z","level":"error","event":"event","id":"a","seed":18446744073709551615})"));
}

TEST_F(LoggerTest, WhatIsBelowTheLevelIsLeftOut) {
  LogConfig config;
  config.level = LogLevel::kWarning;
  EXPECT_TRUE(Write(config, LogLevel::kInfo, {}).empty());
  EXPECT_EQ(Write(config, LogLevel::kWarning, {}).size(), 1u);
}

}  // namespace
}  // namespace fresco
