// Time, passed in: nothing in Fresco reads the clock of the machine but through this.
#pragma once

#include <chrono>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "pipeline/base/mutex.h"

namespace fresco {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;

  // Goes on steadily, whatever is done to the machine's clock: for durations and deadlines.
  virtual absl::Time Now() const = 0;

  // What people take the time to be: for dates.
  virtual absl::Time WallTime() const = 0;

  // Waits until `condition` is notified or Now() reaches `deadline` (InfiniteFuture: no limit). May wake without a
  // reason.
  virtual void WaitUntil(CondVar* condition, Mutex* mutex, absl::Time deadline) FRESCO_REQUIRES(mutex) = 0;
};

// The machine's clocks. Now() is the wall's time at the start of this object and what has passed since then.
class SystemClock final : public Clock {
 public:
  SystemClock();
  absl::Time Now() const override;
  absl::Time WallTime() const override;
  void WaitUntil(CondVar* condition, Mutex* mutex, absl::Time deadline) FRESCO_REQUIRES(mutex) override;

 private:
  const absl::Time wall_at_start_;
  const std::chrono::steady_clock::time_point start_;
};

// For libraries that count in points of the machine's clock (gRPC's deadlines and alarms).
std::chrono::system_clock::time_point SystemTimeIn(absl::Duration from_now);
absl::Duration TimeUntil(std::chrono::system_clock::time_point point);

}  // namespace fresco
