// The calls of engines that one of a device's threads makes: each is under the device's watch and, where its other
// thread is in a call meanwhile, made again by itself if memory did not do for both.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "server/scheduler/device_watch.h"
#include "server/scheduler/engine_calls.h"

namespace fresco {

// RESOURCE_EXHAUSTED, all of it.
inline bool OutOfMemory(const absl::Status& status) {
  return absl::IsResourceExhausted(status);
}
template <typename T>
bool OutOfMemory(const absl::StatusOr<T>& result) {
  return OutOfMemory(result.status());
}
template <typename Result>
bool OutOfMemory(const std::vector<Result>& results) {
  for (const Result& result : results) {
    if (!OutOfMemory(result)) return false;
  }
  return !results.empty();
}

// Of one thread; not thread-safe.
class DeviceCaller {
 public:
  // All outlive it, the clock as long as ours() is true.
  DeviceCaller(DeviceWatch* watch, DeviceThread thread, Clock* clock)
      : watch_(*watch), thread_(thread), clock_(*clock) {}

  // What `call` returns; it has begun and ended when this returns, but for a device that is lost before it begins.
  // Whoever calls looks at ours() before anything else. `size`, `predicted`: see Watchdog.
  template <typename Call>
  auto Make(DeviceCall kind, int64_t size, absl::Duration predicted, const Call& call, Company company = Company::kAny)
      -> decltype(call()) {
    auto result = MakeOnce(kind, size, predicted, call, company);
    if (!ours() || !shared_ || !OutOfMemory(result)) return result;
    watch_.KeepApart();
    result = MakeOnce(kind, size, predicted, call, Company::kNone);
    shared_ = true;  // the first time
    return result;
  }

  // False: the device is lost. For good, and nothing of what others have on it is to be touched.
  bool ours() const { return state_ == DeviceWatch::State::kOurs; }
  // Then: the thread was given up, in a call that has come back after all. What is not its own, its clock for one, may
  // be gone.
  bool given_up() const { return state_ == DeviceWatch::State::kGivenUp; }
  // The other thread was in a call during some of the last, each time that it was made.
  bool shared() const { return shared_; }
  // What the last took, without what came before it: waiting for the other thread's, or a first try in vain.
  absl::Duration duration() const { return duration_; }
  DeviceThread thread() const { return thread_; }

 private:
  template <typename Call>
  auto MakeOnce(DeviceCall kind, int64_t size, absl::Duration predicted, const Call& call, Company company)
      -> decltype(call()) {
    if (!watch_.Enter(thread_, kind, company)) {
      state_ = DeviceWatch::State::kLost;
      return decltype(call())();
    }
    const absl::Time begin = clock_.Now();
    watch_.Begin(thread_, kind, size, predicted, begin);
    auto result = call();
    state_ = watch_.End(thread_, &shared_);
    if (!ours()) return result;
    duration_ = clock_.Now() - begin;
    // What fails may do so long before it would have been done.
    if (AnyOf(result)) watch_.Learn(thread_, kind, size, duration_);
    if (const absl::Status loss = LossOf(result); !loss.ok()) {
      watch_.Lose(std::string(loss.message()));
      state_ = DeviceWatch::State::kLost;
    }
    return result;
  }

  DeviceWatch& watch_;
  const DeviceThread thread_;
  Clock& clock_;
  DeviceWatch::State state_ = DeviceWatch::State::kOurs;
  bool shared_ = false;
  absl::Duration duration_;
};

}  // namespace fresco
