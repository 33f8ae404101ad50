#include "server/scheduler/device_watch.h"

#include <utility>

namespace fresco {

void DeviceWatch::Begin(DeviceCall kind, int64_t size, absl::Duration predicted, absl::Time now) {
  MutexLock lock(&mutex_);
  watchdog_.Begin(kind, size, predicted, now);
}

bool DeviceWatch::End() {
  MutexLock lock(&mutex_);
  watchdog_.End();
  return !given_up_;
}

void DeviceWatch::Learn(DeviceCall kind, int64_t size, absl::Duration duration) {
  MutexLock lock(&mutex_);
  watchdog_.Learn(kind, size, duration);
}

void DeviceWatch::Leave() {
  MutexLock lock(&mutex_);
  left_ = true;
  changed_.NotifyAll();
}

absl::Time DeviceWatch::hung_at() const {
  MutexLock lock(&mutex_);
  return watchdog_.hung_at();
}

bool DeviceWatch::GiveUpIfHung(absl::Time now) {
  MutexLock lock(&mutex_);
  if (given_up_ || !watchdog_.IsHung(now)) return false;
  given_up_ = true;
  watchdog_.End();
  changed_.NotifyAll();
  return true;
}

void DeviceWatch::Keep(std::unique_ptr<Engine> engine) {
  MutexLock lock(&mutex_);
  kept_.push_back(std::move(engine));
}

bool DeviceWatch::AwaitLeave() {
  MutexLock lock(&mutex_);
  while (!left_ && !given_up_) changed_.Wait(&mutex_);
  return left_;
}

}  // namespace fresco
