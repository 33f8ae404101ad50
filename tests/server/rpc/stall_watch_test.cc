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

// Moves when it is told to, and counts how often it was asked.
class StandingClock final : public Clock {
 public:
  absl::Time Now() const override {
    MutexLock lock(&mutex_);
    ++looks_;
    changed_.NotifyAll();
    return now_;
  }
  absl::Time WallTime() const override { return Now(); }
  void WaitUntil(CondVar* /*condition*/, Mutex* /*mutex*/, absl::Time /*deadline*/) override {}
  void Advance(absl::Duration duration) {
    MutexLock lock(&mutex_);
    now_ += duration;
  }
  // Returns when it has been asked as often again.
  void AwaitLooks(int count) const {
    MutexLock lock(&mutex_);
    const int enough = looks_ + count;
    while (looks_ < enough) changed_.Wait(&mutex_);
  }

 private:
  mutable Mutex mutex_;
  mutable CondVar changed_;
  mutable int looks_ FRESCO_GUARDED_BY(mutex_) = 0;
  absl::Time now_ FRESCO_GUARDED_BY(mutex_) = absl::FromUnixSeconds(1'800'000'000);
};

TEST(StallWatchTest, AWriteMayTakeWhatItWasGivenOnTop) {
  StandingClock clock;
  Mutex mutex;
  CondVar changed;
  bool stalled = false;
  const auto watch = StallWatch::Start(absl::Milliseconds(2), &clock, [&] {
    MutexLock lock(&mutex);
    stalled = true;
    changed.NotifyAll();
  });
  watch->WriteStarted(absl::Milliseconds(6));
  clock.Advance(absl::Milliseconds(7));
  clock.AwaitLooks(6);  // whenever its timer fires it looks twice, and sets it anew
  {
    MutexLock lock(&mutex);
    EXPECT_FALSE(stalled);
  }
  clock.Advance(absl::Milliseconds(1));
  MutexLock lock(&mutex);
  while (!stalled) changed.Wait(&mutex);
  watch->Stop();
}

}  // namespace
}  // namespace fresco
