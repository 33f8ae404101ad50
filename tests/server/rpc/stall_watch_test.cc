#include "server/rpc/stall_watch.h"

#include <atomic>
#include <thread>

#include "gtest/gtest.h"

namespace fresco {
namespace {

// The real time, and how often it was asked for.
class CountingClock final : public Clock {
 public:
  absl::Time Now() const override {
    ++looks_;
    return absl::Now();
  }
  absl::Time WallTime() const override { return absl::Now(); }
  void WaitUntil(CondVar* /*condition*/, Mutex* /*mutex*/, absl::Time /*deadline*/) override {}
  int looks() const { return looks_; }

 private:
  mutable std::atomic<int> looks_ = 0;
};

TEST(StallWatchTest, OnlyAWriteCanStallHoweverShortTheLimit) {
  CountingClock clock;
  std::atomic<bool> stalled = false;
  const auto watch = StallWatch::Start(absl::ZeroDuration(), &clock, [&] { stalled = true; });
  // It looks at the time whenever its timer fires.
  while (!stalled && clock.looks() < 10) std::this_thread::yield();
  EXPECT_FALSE(stalled);
  watch->WriteStarted();
  while (!stalled) std::this_thread::yield();
  watch->Stop();
}

}  // namespace
}  // namespace fresco
