// The most that a device has held, for each of two threads that ask since when they asked last, where the engine tells
// only since when anybody did.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "pipeline/base/mutex.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/device_watch.h"
#include "server/scheduler/engine_calls.h"

namespace fresco {

// Thread-safe. The lock is held while the engine answers, as two answers must not change places: it looks at counters,
// and waits for no device.
class PeakMeter {
 public:
  // Bytes, since this thread called it last. `engine`: any of the device's.
  int64_t Take(DeviceThread thread, Engine* engine) {
    MutexLock lock(&mutex_);
    const int64_t peak = CallTakePeakBytes(engine);
    for (int64_t& seen : peaks_) seen = std::max(seen, peak);
    return std::exchange(peaks_[static_cast<size_t>(thread)], 0);
  }

 private:
  Mutex mutex_;
  std::array<int64_t, kDeviceThreads> peaks_ FRESCO_GUARDED_BY(mutex_) = {};
};

}  // namespace fresco
