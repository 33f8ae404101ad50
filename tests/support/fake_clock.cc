#include "tests/support/fake_clock.h"

#include <algorithm>
#include <chrono>

namespace fresco {

absl::Time FakeClock::Now() const {
  MutexLock lock(&mutex_);
  return now_;
}

void FakeClock::WaitUntil(CondVar* condition, Mutex* mutex, absl::Time deadline) {
  std::list<Waiter>::iterator self;
  {
    MutexLock lock(&mutex_);
    if (now_ >= deadline) return;
    self = waiters_.insert(waiters_.end(), {condition, deadline});
    changed_.NotifyAll();
  }
  condition->Wait(mutex);
  MutexLock lock(&mutex_);
  waiters_.erase(self);
  changed_.NotifyAll();
}

void FakeClock::Advance(absl::Duration duration) {
  MutexLock lock(&mutex_);
  now_ += duration;
  const auto is_due = [this](const Waiter& waiter) FRESCO_NO_THREAD_SAFETY_ANALYSIS { return waiter.deadline <= now_; };
  while (std::any_of(waiters_.begin(), waiters_.end(), is_due)) {
    for (const Waiter& waiter : waiters_) {
      if (is_due(waiter)) waiter.condition->NotifyAll();
    }
    // A waiter that had registered but did not wait yet has missed that: notify again until none is left.
    changed_.WaitFor(&mutex_, std::chrono::milliseconds(1));
  }
}

void FakeClock::AwaitWaiter(absl::Time deadline) {
  MutexLock lock(&mutex_);
  const auto waits = [deadline](const Waiter& waiter) { return waiter.deadline == deadline; };
  while (std::none_of(waiters_.begin(), waiters_.end(), waits)) changed_.Wait(&mutex_);
}

}  // namespace fresco
