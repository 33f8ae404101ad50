// Reads a request's events as a caller does: waits for each.
#pragma once

#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "pipeline/base/mutex.h"
#include "server/scheduler/event_channel.h"
#include "server/scheduler/events.h"

namespace fresco {

class EventReader {
 public:
  explicit EventReader(std::shared_ptr<EventChannel> channel);
  ~EventReader();
  EventReader(const EventReader&) = delete;
  EventReader& operator=(const EventReader&) = delete;

  // Waits for the next event.
  RequestEvent Next();
  // Reads on until an event of this kind comes, and returns it; the others are lost. Fails the test at the request's
  // end.
  template <typename Event>
  Event Await();
  // The rest, up to Completed or Failed.
  std::vector<RequestEvent> Rest();
  // The rest's end: OK for Completed, else the status of Failed.
  absl::Status Result();

 private:
  const std::shared_ptr<EventChannel> channel_;
  Mutex mutex_;
  CondVar ready_;
  bool maybe_ready_ FRESCO_GUARDED_BY(mutex_) = false;
};

bool IsLastEvent(const RequestEvent& event);

// All events of one kind.
template <typename Event>
std::vector<Event> EventsOf(const std::vector<RequestEvent>& events) {
  std::vector<Event> found;
  for (const RequestEvent& event : events) {
    if (const auto* typed = std::get_if<Event>(&event)) found.push_back(*typed);
  }
  return found;
}

template <typename Event>
Event EventReader::Await() {
  while (true) {
    RequestEvent event = Next();
    if (auto* found = std::get_if<Event>(&event)) return std::move(*found);
    if (IsLastEvent(event)) throw std::logic_error("the request ended without the event that was awaited");
  }
}

}  // namespace fresco
