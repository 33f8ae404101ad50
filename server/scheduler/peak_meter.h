// The most that a device has held, for each of two threads that ask since when they asked last, where the engine tells
// only since when anybody did.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "pipeline/base/mutex.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/device_caller.h"
#include "server/scheduler/device_watch.h"
#include "server/scheduler/engine_calls.h"

namespace fresco {

// Thread-safe. The lock is held while the engine answers, as two answers must not change places.
class PeakMeter {
 public:
  // Bytes, since `caller`'s thread called it last; 0 where it is not caller->ours() any more. `engine`: any of the
  // device's.
  int64_t Take(DeviceCaller* caller, Engine* engine) {
    const auto ask = [&] { return absl::StatusOr<int64_t>(TakeOf(caller->thread(), engine)); };
    return caller->Make(DeviceCall::kAsk, 0, {}, ask).value_or(0);
  }

 private:
  int64_t TakeOf(DeviceThread thread, Engine* engine) {
    MutexLock lock(&mutex_);
    const int64_t peak = CallTakePeakBytes(engine);
    for (int64_t& seen : peaks_) seen = std::max(seen, peak);
    return std::exchange(peaks_[static_cast<size_t>(thread)], 0);
  }

  Mutex mutex_;
  std::array<int64_t, kDeviceThreads> peaks_ FRESCO_GUARDED_BY(mutex_) = {};
};

}  // namespace fresco
