// A clock that stands still until it is told to go on.
#pragma once

#include <list>

#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"

namespace fresco {

// Thread-safe.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(absl::Time now = absl::FromUnixSeconds(1'800'000'000)) : now_(now) {}

  absl::Time Now() const override;
  absl::Time WallTime() const override { return Now(); }
  void WaitUntil(CondVar* condition, Mutex* mutex, absl::Time deadline) FRESCO_REQUIRES(mutex) override;

  // Moves time on and returns when all whose deadline has come have woken up. The caller holds no mutex that they wait
  // with.
  void Advance(absl::Duration duration);

  // Returns when somebody waits with exactly this deadline.
  void AwaitWaiter(absl::Time deadline);

 private:
  struct Waiter {
    CondVar* condition = nullptr;
    absl::Time deadline;
  };

  mutable Mutex mutex_;
  CondVar changed_;
  absl::Time now_ FRESCO_GUARDED_BY(mutex_);
  std::list<Waiter> waiters_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
