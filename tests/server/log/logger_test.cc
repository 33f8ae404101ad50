#include "server/log/logger.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

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

// A pipe as standard error, whose reader is the test.
class LostLinesTest : public ::testing::Test {
 protected:
  LostLinesTest() {
    std::signal(SIGPIPE, SIG_IGN);
    EXPECT_EQ(pipe(ends_), 0);
  }
  ~LostLinesTest() override {
    for (int end : ends_) close(end);
  }

  void Log(int number) { logger_.Log(LogLevel::kInfo, "event", {{"number", int64_t{number}}}); }
  std::string Read() {
    std::string text(1 << 20, '\0');
    const ssize_t size = read(ends_[0], text.data(), text.size());
    text.resize(size > 0 ? static_cast<size_t>(size) : 0);
    return text;
  }

  FakeClock clock_;
  int ends_[2] = {-1, -1};
  int lost_ = 0;
  Logger logger_{{}, &clock_, [this] { ++lost_; }, 100};
};

TEST_F(LostLinesTest, NobodyWaitsForAReaderWhoDoesNotReadAndWhatIsLostIsSaid) {
  ASSERT_EQ(dup2(ends_[1], 100), 100);
  int logged = 0;
  // One second is waited for the reader, once.
  while (lost_ < 1000) Log(logged++);
  const std::string before = Read();
  EXPECT_THAT(before, HasSubstr("number=0\n"));
  Log(-1);
  EXPECT_EQ(lost_, 1000);
  const std::string after = Read();
  EXPECT_THAT(after, AllOf(HasSubstr("WARN  log_lines_lost count=1000\n"), HasSubstr("event number=-1\n")));
  // No line is torn: each begins with its time.
  std::istringstream lines(before + after);
  int whole = 0;
  for (std::string line; std::getline(lines, line); ++whole) EXPECT_THAT(line, StartsWith("2027-"));
  EXPECT_EQ(whole, logged - 1000 + 2);
  close(100);
}

TEST_F(LostLinesTest, AReaderWhoIsGoneCostsLinesOnly) {
  ASSERT_EQ(dup2(ends_[1], 100), 100);
  close(std::exchange(ends_[0], -1));
  Log(1);
  EXPECT_EQ(lost_, 1);
  close(100);
  Log(2);  // not even a file
  EXPECT_EQ(lost_, 2);
}

TEST_F(LostLinesTest, AFullDiskCostsLinesOnly) {
  const int full = open("/dev/full", O_WRONLY);
  ASSERT_EQ(dup2(full, 100), 100);
  Log(1);
  Log(2);
  EXPECT_EQ(lost_, 2);
  ASSERT_EQ(dup2(ends_[1], 100), 100);
  Log(3);
  EXPECT_THAT(Read(), AllOf(HasSubstr("log_lines_lost count=2\n"), HasSubstr("number=3\n")));
  EXPECT_EQ(lost_, 2);
  close(full);
  close(100);
}

// A disk that takes half a line: the next one that fits begins on a line of its own.
TEST_F(LostLinesTest, HalfALineIsEndedBeforeTheNext) {
  std::FILE* const file = std::tmpfile();
  ASSERT_EQ(dup2(fileno(file), 100), 100);
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 20;
  setrlimit(RLIMIT_FSIZE, &small);
  Log(1);
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(lost_, 1);
  Log(2);
  std::string text(1000, '\0');
  text.resize(static_cast<size_t>(pread(fileno(file), text.data(), text.size(), 0)));
  std::fclose(file);
  close(100);
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  ASSERT_EQ(lines.size(), 4u) << text;
  EXPECT_EQ(lines[0].size(), 20u);
  EXPECT_THAT(lines[1], HasSubstr("log_lines_lost count=1"));
  EXPECT_THAT(lines[2], HasSubstr("event number=2"));
}

}  // namespace
}  // namespace fresco
