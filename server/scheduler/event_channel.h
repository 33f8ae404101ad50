// One request's events on their way from the device's worker to the reactor that writes them: bounded, one writer at a time,
// one reader. Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>

#include "absl/time/time.h"
#include "pipeline/base/mutex.h"
#include "server/scheduler/events.h"

namespace fresco {

class EventChannel {
 public:
  explicit EventChannel(int64_t max_bytes);

  // Reader. The next event, or nothing if none is there now. After Completed or Failed nothing follows.
  std::optional<RequestEvent> Next();
  // Reader. `ready` is called, from any thread and without a lock held, whenever an event has come to an empty channel; at
  // once if some are there already. An empty function takes it away; when SetReadyCallback returns, no earlier callback is running.
  void SetReadyCallback(std::function<void()> ready);
  // Reader. Nobody will read on; Put drops everything from now on and closed() is true.
  void Close();

  // Writer. Never blocks. Above max_bytes previews are dropped and a progress event takes the place of the same image's last
  // unread one; queued events replace an unread queued event; images, Completed and Failed are always kept.
  void Put(RequestEvent event, absl::Time now);
  bool closed() const;
  // Since when the channel has been over its bound without anything being read; nothing: it is not.
  std::optional<absl::Time> full_since() const;
};

}  // namespace fresco
