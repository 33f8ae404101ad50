// Who is in charge of a device's images: its threads or, once one of these is given up, the dispatcher. Outlives both
// the scheduler and a thread that may come back from its engine after hours or never: whatever such a thread still
// touches of the scheduler's is this.
//
// A device has a thread that computes and may have a second one, which decodes beside it. Their calls overlap but for
// those that are made by themselves, since memory does not do for two, or since they are measured.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "pipeline/base/mutex.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/policy/watchdog.h"

namespace fresco {

enum class DeviceThread { kCompute, kDecode };
inline constexpr int kDeviceThreads = 2;

// Whether the other thread may be in a call meanwhile.
enum class Company { kAny, kNone };

// Thread-safe.
class DeviceWatch {
 public:
  // `decodes`: there is a thread for that.
  DeviceWatch(const WatchdogOptions& options, bool decodes);

  // For the device's threads, around each call of an engine: Enter, Begin, the call, End and Learn. Enter waits while
  // the other thread's call, or this one, is to be by itself. False: the device is lost, and the call is not made.
  bool Enter(DeviceThread thread, DeviceCall kind, Company company);
  void Begin(DeviceThread thread, DeviceCall kind, int64_t size, absl::Duration predicted, absl::Time now);
  enum class State {
    kOurs,
    kLost,     // as the other thread has found
    kGivenUp,  // as this one has taken too long: what it has of the scheduler's is not its own any more, and may be
               // gone
  };
  // `shared`: the other thread was in a call for some of the time.
  State End(DeviceThread thread, bool* shared);
  // What a call that did what it was asked for took.
  void Learn(DeviceThread thread, DeviceCall kind, int64_t size, absl::Duration duration);
  // Memory did not do for a call of each: the decoder's next pictures are decoded by themselves, so that not each of
  // them, or a step beside it, is made in vain first. Not for ever, as others may use the device too. What it asks of
  // the device takes no memory, and waits for no step.
  void KeepApart();
  // The device is lost, for this reason or, where there is one, an earlier one.
  void Lose(const std::string& reason);
  // The thread does nothing any more.
  void Leave(DeviceThread thread);

  // Why it is lost; empty: it is not.
  std::string loss() const;

  // For the dispatcher. InfiniteFuture: no call is under way.
  absl::Time hung_at() const;
  // The thread whose call is hung: it is given up and the device lost from now on.
  std::optional<DeviceThread> GiveUpIfHung(absl::Time now);
  // The thread has left, is given up, or never was.
  bool gone(DeviceThread thread) const;

  // An engine of a device that is lost and that nobody uses: it goes with the watch, which the thread holds as long as
  // it hangs.
  void Keep(std::unique_ptr<Engine> engine);

  // For the owner of the thread: waits until it has left (true: it can be joined) or is given up in a call that has not
  // come back (false: nobody knows when it will).
  bool AwaitLeave(DeviceThread thread);

 private:
  struct Thread {
    explicit Thread(const WatchdogOptions& options) : watchdog(options) {}
    Watchdog watchdog;
    bool calls = false;
    bool shared = false;  // its call, with the other's
    bool given_up = false;
    bool left = false;
  };
  Thread& of(DeviceThread thread) FRESCO_REQUIRES(mutex_) { return threads_[static_cast<size_t>(thread)]; }
  Thread& other_of(DeviceThread thread) FRESCO_REQUIRES(mutex_) { return threads_[1 - static_cast<size_t>(thread)]; }

  mutable Mutex mutex_;
  CondVar changed_;
  std::array<Thread, kDeviceThreads> threads_ FRESCO_GUARDED_BY(mutex_);
  std::optional<DeviceThread> alone_ FRESCO_GUARDED_BY(mutex_);  // whose call is, or is to be, by itself
  int apart_ FRESCO_GUARDED_BY(mutex_) = 0;                      // so many decodes are to be
  std::string loss_ FRESCO_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Engine>> kept_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
