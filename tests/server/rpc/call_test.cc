#include "server/rpc/call.h"

#include "gtest/gtest.h"

namespace fresco {
namespace {

const absl::Time kReceived = absl::FromUnixSeconds(1000);

// Whether a caller who leaves so long before its deadline leaves because of it.
bool LeavesAtDeadline(absl::Duration timeout, absl::Duration before) {
  return LeftAtDeadline(kReceived, kReceived + timeout, kReceived + timeout - before);
}

TEST(LeftAtDeadlineTest, ACallersTimerFiresAFiftiethOfItsTimeEarlierAtTheMost) {
  EXPECT_TRUE(LeavesAtDeadline(absl::Seconds(100), absl::ZeroDuration()));
  EXPECT_TRUE(LeavesAtDeadline(absl::Seconds(100), absl::Seconds(2)));
  EXPECT_FALSE(LeavesAtDeadline(absl::Seconds(100), absl::Milliseconds(2001)));
}

TEST(LeftAtDeadlineTest, ButMayAlwaysFireAQuarterOfASecondEarlier) {
  EXPECT_TRUE(LeavesAtDeadline(absl::Seconds(1), absl::Milliseconds(250)));
  EXPECT_FALSE(LeavesAtDeadline(absl::Seconds(1), absl::Milliseconds(251)));
  EXPECT_TRUE(LeavesAtDeadline(absl::Milliseconds(200), absl::Milliseconds(200)));
}

TEST(LeftAtDeadlineTest, WhoHasNoDeadlineNeverLeavesAtIt) {
  EXPECT_FALSE(LeftAtDeadline(kReceived, absl::InfiniteFuture(), kReceived + absl::Hours(10'000)));
}

}  // namespace
}  // namespace fresco
