// How many calls that draw are not over: their callers may still be reading.
#pragma once

#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"

namespace fresco {

// Thread-safe.
class OpenCalls {
 public:
  void Enter() {
    MutexLock lock(&mutex_);
    ++count_;
  }
  void Leave() {
    MutexLock lock(&mutex_);
    --count_;
    changed_.NotifyAll();
  }
  // Returns when there are none, or at `deadline`.
  void AwaitNone(Clock* clock, absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (count_ > 0 && clock->Now() < deadline) clock->WaitUntil(&changed_, &mutex_, deadline);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int count_ FRESCO_GUARDED_BY(mutex_) = 0;
};

}  // namespace fresco
