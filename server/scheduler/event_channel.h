// One request's events on their way from the device's worker to the reactor that writes them: bounded, one writer at a
// time, one reader. Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "pipeline/base/mutex.h"
#include "server/scheduler/events.h"

namespace fresco {

class EventChannel {
 public:
  explicit EventChannel(int64_t max_bytes);

  // Reader. The next event, or nothing if none is there now. After Completed or Failed nothing follows.
  std::optional<RequestEvent> Next();
  // Reader. `ready` is called, from any thread and without a lock held, whenever an event has come to an empty channel;
  // at once if some are there already. An empty function takes it away; when SetReadyCallback returns, no earlier
  // callback is running. One that throws closes the channel.
  void SetReadyCallback(std::function<void()> ready);
  // Reader. It goes on reading what Next gave it, so that the channel is not full for want of a reader.
  void KeepsReading();
  // Reader. Nobody will read on; Put drops everything from now on and closed() is true.
  void Close();

  // Writer. Never blocks. Above max_bytes previews are dropped and a progress event takes the place of the same image's
  // last unread one; queued events replace an unread queued event; images, Completed and Failed are always kept.
  void Put(RequestEvent event, absl::Time now);
  bool closed() const;
  // Since when the channel has been over its bound without anything being read; nothing: it is not.
  // (Full: the last event put did not fit as it was: it lost its preview, took another's place, or was kept all the
  // same.)
  std::optional<absl::Time> full_since() const;

 private:
  using Callback = std::shared_ptr<const std::function<void()>>;

  void Admit(RequestEvent event, absl::Time now) FRESCO_REQUIRES(mutex_);
  void Append(RequestEvent event) FRESCO_REQUIRES(mutex_);
  bool ReplaceProgress(ProgressEvent* event) FRESCO_REQUIRES(mutex_);
  Callback BeginCall() FRESCO_REQUIRES(mutex_);
  void Call(const Callback& callback) FRESCO_EXCLUDES(mutex_);

  const int64_t max_bytes_;
  mutable Mutex mutex_;
  CondVar called_;
  std::deque<RequestEvent> events_ FRESCO_GUARDED_BY(mutex_);
  int64_t bytes_ FRESCO_GUARDED_BY(mutex_) = 0;   // of events_
  bool ended_ FRESCO_GUARDED_BY(mutex_) = false;  // Completed or Failed was put
  bool closed_ FRESCO_GUARDED_BY(mutex_) = false;
  std::optional<absl::Time> full_since_ FRESCO_GUARDED_BY(mutex_);
  Callback ready_ FRESCO_GUARDED_BY(mutex_);
  std::vector<std::thread::id> calling_ FRESCO_GUARDED_BY(mutex_);  // threads inside a callback
};

}  // namespace fresco
