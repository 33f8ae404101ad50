// One request's way out: puts its events into its channel in their order, though they come from the device's thread and
// from those that encode. An image's progress event that waits for its preview holds back that image's later events, no
// others'.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"
#include "server/scheduler/event_channel.h"
#include "server/scheduler/events.h"
#include "server/scheduler/ordered_calls.h"

namespace fresco {

// Thread-safe. Adding is cheap and allowed with a lock held; nothing reaches the channel before Deliver().
class RequestOutput {
 public:
  RequestOutput(std::shared_ptr<EventChannel> channel, Clock* clock);

  void Add(RequestEvent event);
  // After whatever of that image is held back.
  void AddForImage(int image_index, RequestEvent event);
  // Held back until Fill.
  void Hold(ProgressEvent event);
  // Lets the image's event of that step go, with its preview where there is one.
  void Fill(int image_index, int step, std::optional<EncodedImage> preview);
  // How many events of the image wait for their previews.
  int held(int image_index) const;
  // Lets everything go that is held back, without its previews, then adds the request's last event, then makes `call`.
  // What is added later is dropped.
  void End(RequestEvent last, std::function<void()> call);

  // Puts what was added. Call it with no lock held.
  void Deliver();

 private:
  struct Held {
    RequestEvent event;
    bool ready = false;
  };

  void Send(RequestEvent event) FRESCO_REQUIRES(mutex_);

  const std::shared_ptr<EventChannel> channel_;
  Clock* const clock_;
  OrderedCalls calls_;
  mutable Mutex mutex_;
  std::map<int, std::deque<Held>> held_ FRESCO_GUARDED_BY(mutex_);  // by image; the first of each is not ready
  bool ended_ FRESCO_GUARDED_BY(mutex_) = false;
};

}  // namespace fresco
