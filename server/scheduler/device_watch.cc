#include "server/scheduler/device_watch.h"

#include <algorithm>
#include <utility>

namespace fresco {
namespace {

constexpr int kApart = 16;  // decodes, once one and a step did not fit beside each other

}  // namespace

DeviceWatch::DeviceWatch(const WatchdogOptions& options, bool decodes) : threads_{Thread(options), Thread(options)} {
  of(DeviceThread::kDecode).left = !decodes;
}

bool DeviceWatch::Enter(DeviceThread thread, DeviceCall kind, Company company) {
  MutexLock lock(&mutex_);
  const bool beside = thread == DeviceThread::kDecode && kind == DeviceCall::kFinish && company == Company::kAny;
  if (beside && apart_ > 0) {
    --apart_;
    company = Company::kNone;
  }
  while (loss_.empty() && alone_.has_value() && alone_ != thread) changed_.Wait(&mutex_);
  if (company == Company::kNone && loss_.empty()) {
    alone_ = thread;  // from now on the other begins nothing
    while (loss_.empty() && other_of(thread).calls) changed_.Wait(&mutex_);
  }
  if (!loss_.empty()) return false;
  Thread& own = of(thread);
  own.calls = true;
  own.shared = other_of(thread).calls;
  other_of(thread).shared = true;
  return true;
}

void DeviceWatch::Begin(DeviceThread thread, DeviceCall kind, int64_t size, absl::Duration predicted, absl::Time now) {
  MutexLock lock(&mutex_);
  of(thread).watchdog.Begin(kind, size, predicted, now);
}

DeviceWatch::State DeviceWatch::End(DeviceThread thread, bool* shared) {
  MutexLock lock(&mutex_);
  Thread& own = of(thread);
  own.watchdog.End();
  own.calls = false;
  *shared = own.shared;
  if (alone_ == thread) alone_.reset();
  changed_.NotifyAll();
  if (own.given_up) return State::kGivenUp;
  return loss_.empty() ? State::kOurs : State::kLost;
}

void DeviceWatch::Learn(DeviceThread thread, DeviceCall kind, int64_t size, absl::Duration duration) {
  MutexLock lock(&mutex_);
  of(thread).watchdog.Learn(kind, size, duration);
}

void DeviceWatch::KeepApart() {
  MutexLock lock(&mutex_);
  apart_ = kApart;
}

void DeviceWatch::Lose(const std::string& reason) {
  MutexLock lock(&mutex_);
  if (loss_.empty()) loss_ = reason;
  changed_.NotifyAll();
}

void DeviceWatch::Leave(DeviceThread thread) {
  MutexLock lock(&mutex_);
  of(thread).left = true;
  changed_.NotifyAll();
}

std::string DeviceWatch::loss() const {
  MutexLock lock(&mutex_);
  return loss_;
}

absl::Time DeviceWatch::hung_at() const {
  MutexLock lock(&mutex_);
  absl::Time first = absl::InfiniteFuture();
  for (const Thread& thread : threads_) first = std::min(first, thread.watchdog.hung_at());
  return first;
}

std::optional<DeviceThread> DeviceWatch::GiveUpIfHung(absl::Time now) {
  MutexLock lock(&mutex_);
  for (DeviceThread thread : {DeviceThread::kCompute, DeviceThread::kDecode}) {
    Thread& own = of(thread);
    if (own.given_up || !own.watchdog.IsHung(now)) continue;
    own.given_up = true;
    own.watchdog.End();
    if (loss_.empty()) loss_ = "it hangs: a call has taken much longer than predicted";
    changed_.NotifyAll();
    return thread;
  }
  return std::nullopt;
}

bool DeviceWatch::gone(DeviceThread thread) const {
  MutexLock lock(&mutex_);
  const Thread& own = threads_[static_cast<size_t>(thread)];
  return own.left || own.given_up;
}

void DeviceWatch::Keep(std::unique_ptr<Engine> engine) {
  MutexLock lock(&mutex_);
  kept_.push_back(std::move(engine));
}

bool DeviceWatch::AwaitLeave(DeviceThread thread) {
  MutexLock lock(&mutex_);
  while (!of(thread).left && !of(thread).given_up) changed_.Wait(&mutex_);
  return of(thread).left;
}

}  // namespace fresco
