// Who is in charge of a device's images: its thread or, once the device is given up, the dispatcher. Outlives both the
// scheduler and a thread that may come back from its engine after hours or never: whatever such a thread still touches
// of the scheduler's is this.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "pipeline/base/mutex.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/policy/watchdog.h"

namespace fresco {

// Thread-safe.
class DeviceWatch {
 public:
  explicit DeviceWatch(const WatchdogOptions& options) : watchdog_(options) {}

  // For the device's thread, around each call of an engine. False: the device was given up meanwhile; what the thread
  // has of the scheduler's is not its own any more, and may be gone.
  void Begin(DeviceCall kind, int64_t size, absl::Duration predicted, absl::Time now);
  bool End();
  // What a call that did what it was asked for took.
  void Learn(DeviceCall kind, int64_t size, absl::Duration duration);
  // The thread does nothing any more.
  void Leave();

  // For the dispatcher. InfiniteFuture: no call is under way.
  absl::Time hung_at() const;
  // True: the call under way is hung, and the device given up from now on.
  bool GiveUpIfHung(absl::Time now);

  // An engine of a device that is lost and that nobody uses: it goes with the watch, which the thread holds as long as
  // it hangs.
  void Keep(std::unique_ptr<Engine> engine);

  // For the owner of the thread: waits until it has left (true: it can be joined) or is given up in a call that has not
  // come back (false: nobody knows when it will).
  bool AwaitLeave();

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  Watchdog watchdog_ FRESCO_GUARDED_BY(mutex_);
  bool given_up_ FRESCO_GUARDED_BY(mutex_) = false;
  bool left_ FRESCO_GUARDED_BY(mutex_) = false;
  std::vector<std::unique_ptr<Engine>> kept_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
