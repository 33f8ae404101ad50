// Ends a call whose client takes nothing of what is written to it for too long: gRPC itself would wait for as long as
// the connection lives, and the pictures with it.
#pragma once

#include <grpcpp/alarm.h>

#include <functional>
#include <memory>
#include <optional>

#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"

namespace fresco {

// Thread-safe. Held by shared_ptr, since its timer may outlive the call for a moment.
class StallWatch : public std::enable_shared_from_this<StallWatch> {
 public:
  // `on_stall` is called at most once, when a write has lasted for `limit` (at least a millisecond) and what
  // it was given beside that; it must not call back into the watch.
  static std::shared_ptr<StallWatch> Start(absl::Duration limit, const Clock* clock, std::function<void()> on_stall);
  StallWatch(absl::Duration limit, const Clock* clock, std::function<void()> on_stall);

  void WriteStarted(absl::Duration more = absl::ZeroDuration());
  void WriteDone();
  // When it returns, on_stall is not running and will not be called.
  void Stop();

 private:
  void Arm(absl::Time due) FRESCO_REQUIRES(mutex_);
  void Fire();

  const absl::Duration limit_;
  const Clock* const clock_;
  const std::function<void()> on_stall_;
  Mutex mutex_;
  bool stopped_ FRESCO_GUARDED_BY(mutex_) = false;
  std::optional<absl::Time> due_ FRESCO_GUARDED_BY(mutex_);  // of the write that goes on
  std::unique_ptr<grpc::Alarm> alarm_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
