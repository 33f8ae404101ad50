#include "server/rpc/denial_log.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "pipeline/base/strings.h"
#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

class DenialLogTest : public ::testing::Test {
 protected:
  static LogConfig Json() {
    LogConfig config;
    config.format = LogFormat::kJson;
    return config;
  }
  static Denial From(const std::string& peer, const std::string& message = "who?") {
    return {"Generate", "UNAUTHENTICATED", message, peer};
  }
  // So many lines at least, all that there are.
  std::vector<nlohmann::json> Lines(size_t count) {
    MutexLock lock(&mutex_);
    while (lines_.size() < count) changed_.Wait(&mutex_);
    std::vector<nlohmann::json> parsed;
    for (const std::string& line : lines_) parsed.push_back(nlohmann::json::parse(line));
    return parsed;
  }
  static int64_t Denials(const std::vector<nlohmann::json>& lines) {
    int64_t sum = 0;
    for (const nlohmann::json& line : lines) sum += line.at("count").get<int64_t>();
    return sum;
  }
  // The next second, once the log waits for its end.
  void PassASecond() {
    clock_.AwaitWaiter(clock_.Now() + absl::Seconds(1));
    clock_.Advance(absl::Seconds(1));
  }

  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> lines_ FRESCO_GUARDED_BY(mutex_);
  FakeClock clock_;
  const Logger logger_{Json(), &clock_, [this](std::string_view line) {
                         MutexLock lock(&mutex_);
                         lines_.emplace_back(line);
                         changed_.NotifyAll();
                       }};
  std::optional<DenialLog> log_{std::in_place, &logger_, &clock_};
};

TEST_F(DenialLogTest, TheFirstIsToldAtOnceAndTheOthersOfItsSecondInOneLine) {
  for (int port = 1; port <= 1000; ++port) log_->Add(From(StrCat("ipv4:10.0.0.1:", port)));
  std::vector<nlohmann::json> lines = Lines(1);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].at("event"), "denied");
  EXPECT_EQ(lines[0].at("peer"), "ipv4:10.0.0.1:1");
  EXPECT_EQ(lines[0].at("count"), 1);
  PassASecond();
  lines = Lines(2);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1].at("method"), "Generate");
  EXPECT_EQ(lines[1].at("code"), "UNAUTHENTICATED");
  EXPECT_EQ(lines[1].at("message"), "who?");
  EXPECT_EQ(lines[1].at("peer"), "ipv4:10.0.0.1");
  EXPECT_EQ(lines[1].at("count"), 999);
}

TEST_F(DenialLogTest, AFloodIsALineASecondAndCountedWhole) {
  for (int second = 0; second < 5; ++second) {
    for (int i = 0; i < 100; ++i) log_->Add(From("ipv4:10.0.0.1:7"));
    PassASecond();
    EXPECT_EQ(Lines(second + 2).size(), static_cast<size_t>(second + 2));
  }
  EXPECT_EQ(Denials(Lines(6)), 500);
}

TEST_F(DenialLogTest, AfterAQuietSecondTheNextIsToldAtOnce) {
  log_->Add(From("ipv4:10.0.0.1:7"));
  PassASecond();
  clock_.AwaitWaiter(absl::InfiniteFuture());  // it has been forgotten
  log_->Add(From("ipv4:10.0.0.1:7"));
  EXPECT_EQ(Lines(2).size(), 2u);
}

TEST_F(DenialLogTest, AFloodHidesNobodyElse) {
  for (int i = 0; i < 100; ++i) log_->Add(From("ipv4:10.0.0.1:7"));
  log_->Add(From("ipv4:10.0.0.2:7"));
  log_->Add(From("ipv4:10.0.0.1:7", "the token 'studio' has expired"));
  const std::vector<nlohmann::json> lines = Lines(3);
  EXPECT_EQ(lines[1].at("peer"), "ipv4:10.0.0.2:7");
  EXPECT_EQ(lines[2].at("message"), "the token 'studio' has expired");
}

TEST_F(DenialLogTest, ManyAddressesAreOne) {
  const size_t many = DenialLog::kMaxKinds + 1000;
  for (size_t i = 0; i < many; ++i) log_->Add(From(StrCat("ipv6:%5B2001:db8::", i, "%5D:7")));
  EXPECT_LE(Lines(1).size(), DenialLog::kMaxKinds + 1);
  log_.reset();
  const std::vector<nlohmann::json> lines = Lines(1);
  EXPECT_EQ(lines.back().at("peer"), "(others)");
  EXPECT_EQ(Denials(lines), static_cast<int64_t>(many));
}

TEST_F(DenialLogTest, SeveralMethodsAreSaidToBe) {
  Denial denial = From("ipv4:10.0.0.1:7");
  for (const char* method : {"Generate", "Generate", "Drain"}) {
    denial.method = method;
    log_->Add(denial);
  }
  log_.reset();
  EXPECT_EQ(Lines(2).at(1).at("method"), "(several)");
  EXPECT_EQ(Lines(2).at(1).at("peer"), "ipv4:10.0.0.1:7");
}

}  // namespace
}  // namespace fresco
