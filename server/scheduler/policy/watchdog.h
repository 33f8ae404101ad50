// When a call of a device is to be taken for hung: it has taken many times as long as was predicted, and long in any
// case. A state machine, without a thread, lock or clock of its own; one for each device.
#pragma once

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace fresco {

struct WatchdogOptions {
  absl::Duration floor = absl::Seconds(30);  // no call is taken for hung earlier; InfiniteDuration: none ever is
  absl::Duration first = absl::Minutes(30);  // nor earlier where none of its kind that is as large has come back yet
  double factor = 20;                        // of what is predicted
  // A model's load that takes longer is told of, each time that so long has passed; it goes on, as it is no call of a
  // device that others wait for.
  absl::Duration load = absl::Minutes(10);
};

// kMove: between the device and host memory. kWarmUp, kUnload: of a whole engine. kAsk: of the device, how much memory
// it has.
enum class DeviceCall { kPrepare, kStep, kPreview, kFinish, kMove, kWarmUp, kUnload, kAsk };
inline constexpr int kDeviceCalls = 8;

class Watchdog {
 public:
  explicit Watchdog(const WatchdogOptions& options) : options_(options) {}

  // `size`: calls of one kind take longer the larger it is. `predicted`: zero where it is not known; the longest that
  // one of the kind has taken counts where that is more. Calls do not overlap.
  void Begin(DeviceCall kind, int64_t size, absl::Duration predicted, absl::Time now);
  void End() { hung_at_ = absl::InfiniteFuture(); }
  // A call that came back, with what was asked for, has taken so long.
  void Learn(DeviceCall kind, int64_t size, absl::Duration duration);

  // When the call under way is hung; InfiniteFuture: there is none.
  absl::Time hung_at() const { return hung_at_; }
  // Whether it is. Whoever asks does so at hung_at(): if it is asked much later, then not only the device has stood
  // still but the whole process, or the machine, and the call gets its time once more.
  bool IsHung(absl::Time now);

 private:
  struct Known {
    int64_t largest = -1;
    absl::Duration longest;
  };
  absl::Duration Allowed(const Known& known, int64_t size, absl::Duration predicted) const;

  const WatchdogOptions options_;
  std::array<Known, kDeviceCalls> known_;
  absl::Duration allowed_;  // for the call under way
  absl::Time hung_at_ = absl::InfiniteFuture();
};

}  // namespace fresco
