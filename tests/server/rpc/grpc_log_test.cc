#include "server/rpc/grpc_log.h"

#include <grpc/grpc.h>
#include <grpc/support/log.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::EndsWith;
using ::testing::StartsWith;

class GrpcLogTest : public ::testing::Test {
 protected:
  GrpcLogTest() { grpc_init(); }  // before that gRPC says nothing
  ~GrpcLogTest() override { grpc_shutdown(); }

  static LogConfig Json() {
    LogConfig config;
    config.format = LogFormat::kJson;
    return config;
  }
  nlohmann::json Line(size_t index) const { return nlohmann::json::parse(lines_.at(index)); }

  FakeClock clock_;
  std::vector<std::string> lines_;
  const Logger logger_{Json(), &clock_, [this](std::string_view line) { lines_.emplace_back(line); }};
  std::optional<GrpcLog> log_{std::in_place, &logger_, &clock_};
};

TEST_F(GrpcLogTest, WhatALineHoldsStaysInItsField) {
  const std::string forged = "value=x\n{\"time\":\"now\",\"level\":\"info\",\"event\":\"forged\"}\x1b[2J\xff";
  gpr_log(GPR_ERROR, "%s", forged.c_str());
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_EQ(lines_[0].find('\n'), std::string::npos);
  EXPECT_EQ(lines_[0].find('\x1b'), std::string::npos);
  const nlohmann::json line = Line(0);
  EXPECT_EQ(line.at("event"), "grpc");
  EXPECT_EQ(line.at("level"), "error");
  EXPECT_THAT(line.at("source").get<std::string>(), StartsWith("grpc_log_test.cc:"));
  EXPECT_THAT(line.at("text").get<std::string>(), StartsWith("value=x\n{\"time\":\"now\""));
}

TEST_F(GrpcLogTest, ALongLineIsCut) {
  gpr_log(GPR_ERROR, "%s", std::string(100'000, 'x').c_str());
  EXPECT_LT(lines_.at(0).size(), 2000u);
  EXPECT_THAT(Line(0).at("text").get<std::string>(), EndsWith("…"));
}

TEST_F(GrpcLogTest, OfASecondSoManyLinesAndThenHowManyMoreThereWere) {
  for (int i = 0; i < 1000; ++i) gpr_log(GPR_ERROR, "flood");
  EXPECT_EQ(lines_.size(), size_t{GrpcLog::kLinesPerSecond});
  clock_.Advance(absl::Seconds(1));
  gpr_log(GPR_ERROR, "later");
  ASSERT_EQ(lines_.size(), size_t{GrpcLog::kLinesPerSecond + 2});
  EXPECT_EQ(Line(GrpcLog::kLinesPerSecond).at("event"), "grpc_lines_left_out");
  EXPECT_EQ(Line(GrpcLog::kLinesPerSecond).at("count"), 1000 - GrpcLog::kLinesPerSecond);
  EXPECT_EQ(Line(GrpcLog::kLinesPerSecond + 1).at("text"), "later");
}

TEST_F(GrpcLogTest, WhatWasLeftOutIsSaidAtTheEndAtTheLatest) {
  for (int64_t i = 0; i < GrpcLog::kLinesPerSecond + 3; ++i) gpr_log(GPR_ERROR, "flood");
  log_.reset();
  EXPECT_EQ(Line(lines_.size() - 1).at("event"), "grpc_lines_left_out");
  EXPECT_EQ(Line(lines_.size() - 1).at("count"), 3);
  gpr_log(GPR_ERROR, "to standard error, as without it");
  EXPECT_EQ(lines_.size(), size_t{GrpcLog::kLinesPerSecond + 1});
}

}  // namespace
}  // namespace fresco
