// A door in the way of threads that a test wants to stop at a known place.
#pragma once

#include <cstdint>

#include "pipeline/base/mutex.h"

namespace fresco {

// Open at first. Thread-safe.
class Gate {
 public:
  // For the thread under test: returns when the gate lets it through.
  void Pass() {
    MutexLock lock(&mutex_);
    ++arrived_;
    changed_.NotifyAll();
    while (!open_ && permits_ == 0) changed_.Wait(&mutex_);
    if (!open_) --permits_;
    ++passed_;
    changed_.NotifyAll();
  }

  void Close() {
    MutexLock lock(&mutex_);
    open_ = false;
  }
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  // Lets `count` threads through a closed gate.
  void Allow(int count) {
    MutexLock lock(&mutex_);
    permits_ += count;
    changed_.NotifyAll();
  }
  // Returns when `count` threads (in all, since the beginning) have come to the gate.
  void AwaitArrivals(int64_t count) {
    MutexLock lock(&mutex_);
    while (arrived_ < count) changed_.Wait(&mutex_);
  }
  // Returns when `count` threads (in all) have gone through.
  void AwaitPassed(int64_t count) {
    MutexLock lock(&mutex_);
    while (passed_ < count) changed_.Wait(&mutex_);
  }
  // Returns when somebody stands before the closed gate.
  void AwaitBlocked() {
    MutexLock lock(&mutex_);
    while (arrived_ == passed_ || permits_ > 0) changed_.Wait(&mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ FRESCO_GUARDED_BY(mutex_) = true;
  int permits_ FRESCO_GUARDED_BY(mutex_) = 0;
  int64_t arrived_ FRESCO_GUARDED_BY(mutex_) = 0;
  int64_t passed_ FRESCO_GUARDED_BY(mutex_) = 0;
};

}  // namespace fresco
