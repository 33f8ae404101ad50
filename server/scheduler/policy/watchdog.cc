#include "server/scheduler/policy/watchdog.h"

#include <algorithm>
#include <cstddef>

namespace fresco {
namespace {

// By how much later than asked for a thread wakes up on a machine that is busy and no more.
constexpr absl::Duration kLateLook = absl::Seconds(5);

}  // namespace

absl::Duration Watchdog::Allowed(const Known& known, int64_t size, absl::Duration predicted) const {
  const absl::Duration expected = std::max(predicted, known.longest);
  const absl::Duration least = size <= known.largest ? options_.floor : std::max(options_.floor, options_.first);
  return std::max(least, options_.factor * expected);
}

void Watchdog::Begin(DeviceCall kind, int64_t size, absl::Duration predicted, absl::Time now) {
  allowed_ = Allowed(known_[static_cast<size_t>(kind)], size, predicted);
  hung_at_ = now + allowed_;
}

void Watchdog::Learn(DeviceCall kind, int64_t size, absl::Duration duration) {
  Known& known = known_[static_cast<size_t>(kind)];
  known.largest = std::max(known.largest, size);
  known.longest = std::max(known.longest, duration);
}

bool Watchdog::IsHung(absl::Time now) {
  if (now < hung_at_) return false;
  if (now <= hung_at_ + kLateLook) return true;
  hung_at_ = now + allowed_;
  return false;
}

}  // namespace fresco
