#include "pipeline/base/clock.h"

#include <algorithm>

namespace fresco {

absl::Time SystemClock::Now() const {
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

}  // namespace fresco
