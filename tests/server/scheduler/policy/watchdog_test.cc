#include "server/scheduler/policy/watchdog.h"

#include <gtest/gtest.h>

namespace fresco {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);
const absl::Duration kSecond = absl::Seconds(1);

WatchdogOptions Options() {
  WatchdogOptions options;
  options.floor = 30 * kSecond;
  options.first = 1000 * kSecond;
  options.factor = 20;
  return options;
}

// How long a call may take.
absl::Duration Allowed(Watchdog* watchdog, DeviceCall kind, int64_t size, absl::Duration predicted = {}) {
  watchdog->Begin(kind, size, predicted, kNow);
  const absl::Time hung_at = watchdog->hung_at();
  watchdog->End();
  return hung_at - kNow;
}

TEST(WatchdogTest, WhatIsPredictedMayTakeManyTimesAsLongAndNeverLittle) {
  Watchdog watchdog(Options());
  watchdog.Learn(DeviceCall::kStep, 1, {});
  EXPECT_EQ(Allowed(&watchdog, DeviceCall::kStep, 1, 3 * kSecond), 60 * kSecond);
  EXPECT_EQ(Allowed(&watchdog, DeviceCall::kStep, 1, absl::Milliseconds(10)), 30 * kSecond);
}

TEST(WatchdogTest, TheFirstOfItsKindAndSizeMayTakeLong) {
  Watchdog watchdog(Options());
  EXPECT_EQ(Allowed(&watchdog, DeviceCall::kFinish, 100), 1000 * kSecond);
  watchdog.Learn(DeviceCall::kFinish, 100, 4 * kSecond);
  EXPECT_EQ(Allowed(&watchdog, DeviceCall::kFinish, 100), 80 * kSecond);
  EXPECT_EQ(Allowed(&watchdog, DeviceCall::kFinish, 50), 80 * kSecond);
  EXPECT_EQ(Allowed(&watchdog, DeviceCall::kFinish, 101), 1000 * kSecond);
  EXPECT_EQ(Allowed(&watchdog, DeviceCall::kPrepare, 100), 1000 * kSecond);
  // A prediction for what has not been seen may be far off, or the call the first that compiles its kernels.
  EXPECT_EQ(Allowed(&watchdog, DeviceCall::kFinish, 101, kSecond), 1000 * kSecond);
  EXPECT_EQ(Allowed(&watchdog, DeviceCall::kFinish, 101, 60 * kSecond), 1200 * kSecond);
  // What has been seen counts where less was predicted.
  watchdog.Learn(DeviceCall::kStep, 100, 10 * kSecond);
  EXPECT_EQ(Allowed(&watchdog, DeviceCall::kStep, 100, 2 * kSecond), 200 * kSecond);
}

TEST(WatchdogTest, ACallIsHungFromItsTimeOnUntilItEnds) {
  Watchdog watchdog(Options());
  EXPECT_FALSE(watchdog.IsHung(kNow));
  EXPECT_EQ(watchdog.hung_at(), absl::InfiniteFuture());
  watchdog.Learn(DeviceCall::kStep, 1, kSecond);
  watchdog.Begin(DeviceCall::kStep, 1, kSecond, kNow);
  EXPECT_FALSE(watchdog.IsHung(kNow + 29 * kSecond));
  EXPECT_TRUE(watchdog.IsHung(kNow + 30 * kSecond));
  watchdog.End();
  EXPECT_FALSE(watchdog.IsHung(kNow + 31 * kSecond));
}

TEST(WatchdogTest, AProcessThatStoodStillItselfBlamesNoDevice) {
  Watchdog watchdog(Options());
  watchdog.Learn(DeviceCall::kStep, 1, kSecond);
  watchdog.Begin(DeviceCall::kStep, 1, kSecond, kNow);
  const absl::Time later = kNow + absl::Hours(8);  // a laptop that slept
  EXPECT_FALSE(watchdog.IsHung(later));
  EXPECT_EQ(watchdog.hung_at(), later + 30 * kSecond);
  EXPECT_TRUE(watchdog.IsHung(later + 30 * kSecond));
}

TEST(WatchdogTest, ItCanBeSwitchedOff) {
  WatchdogOptions options = Options();
  options.floor = absl::InfiniteDuration();
  Watchdog watchdog(options);
  watchdog.Begin(DeviceCall::kStep, 1, kSecond, kNow);
  EXPECT_FALSE(watchdog.IsHung(kNow + absl::Hours(10'000)));
}

}  // namespace
}  // namespace fresco
