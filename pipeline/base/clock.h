// Time, passed in: nothing in Fresco reads the clock of the machine but through this.
#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "pipeline/base/mutex.h"

namespace fresco {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;

  virtual absl::Time Now() const = 0;

  // Waits until `condition` is notified or Now() reaches `deadline` (InfiniteFuture: no limit). May wake without a
  // reason.
  virtual void WaitUntil(CondVar* condition, Mutex* mutex, absl::Time deadline) FRESCO_REQUIRES(mutex) = 0;
};

// The machine's clock.
class SystemClock final : public Clock {
 public:
  absl::Time Now() const override;
  void WaitUntil(CondVar* condition, Mutex* mutex, absl::Time deadline) FRESCO_REQUIRES(mutex) override;
};

}  // namespace fresco
