#include "pipeline/base/clock.h"

#include <algorithm>

namespace fresco {

SystemClock::SystemClock() : wall_at_start_(absl::Now()), start_(std::chrono::steady_clock::now()) {}

absl::Time SystemClock::Now() const {
  return wall_at_start_ + absl::FromChrono(std::chrono::steady_clock::now() - start_);
}

absl::Time SystemClock::WallTime() const {
  return absl::Now();
}

void SystemClock::WaitUntil(CondVar* condition, Mutex* mutex, absl::Time deadline) {
  if (deadline == absl::InfiniteFuture()) {
    condition->Wait(mutex);
    return;
  }
  // In slices of an hour, so that no deadline overflows the library's clock; callers loop on their condition anyway.
  const absl::Duration left = std::clamp(deadline - Now(), absl::ZeroDuration(), absl::Hours(1));
  condition->WaitFor(mutex, absl::ToChronoNanoseconds(left));
}

std::chrono::system_clock::time_point SystemTimeIn(absl::Duration from_now) {
  return absl::ToChronoTime(absl::Now() + from_now);
}

absl::Duration TimeUntil(std::chrono::system_clock::time_point point) {
  return absl::FromChrono(point) - absl::Now();
}

}  // namespace fresco
