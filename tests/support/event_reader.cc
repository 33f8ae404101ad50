#include "tests/support/event_reader.h"

namespace fresco {

EventReader::EventReader(std::shared_ptr<EventChannel> channel) : channel_(std::move(channel)) {
  channel_->SetReadyCallback([this] {
    MutexLock lock(&mutex_);
    maybe_ready_ = true;
    ready_.NotifyAll();
  });
}

EventReader::~EventReader() {
  channel_->SetReadyCallback({});
}

RequestEvent EventReader::Next() {
  while (true) {
    if (std::optional<RequestEvent> event = channel_->Next()) return *std::move(event);
    MutexLock lock(&mutex_);
    while (!maybe_ready_) ready_.Wait(&mutex_);
    maybe_ready_ = false;
  }
}

std::vector<RequestEvent> EventReader::Rest() {
  std::vector<RequestEvent> events;
  do {
    events.push_back(Next());
  } while (!IsLastEvent(events.back()));
  return events;
}

absl::Status EventReader::Result() {
  const std::vector<RequestEvent> rest = Rest();
  const auto* failed = std::get_if<FailedEvent>(&rest.back());
  return failed == nullptr ? absl::OkStatus() : failed->status;
}

bool IsLastEvent(const RequestEvent& event) {
  return std::holds_alternative<CompletedEvent>(event) || std::holds_alternative<FailedEvent>(event);
}

}  // namespace fresco
