#include "server/scheduler/event_channel.h"

#include <algorithm>
#include <utility>

#include "server/scheduler/guarded.h"

namespace fresco {
namespace {

// What an event counts for beside its pictures.
constexpr int64_t kEventBytes = 256;

int64_t PreviewBytes(const ProgressEvent& event) {
  return event.preview ? static_cast<int64_t>(event.preview->bytes.size()) : 0;
}

int64_t EventBytes(const RequestEvent& event) {
  if (const auto* progress = std::get_if<ProgressEvent>(&event)) return kEventBytes + PreviewBytes(*progress);
  if (const auto* image = std::get_if<ImageEvent>(&event)) {
    return kEventBytes + static_cast<int64_t>(image->image.bytes.size());
  }
  return kEventBytes;
}

bool IsLast(const RequestEvent& event) {
  return std::holds_alternative<CompletedEvent>(event) || std::holds_alternative<FailedEvent>(event);
}

}  // namespace

EventChannel::EventChannel(int64_t max_bytes) : max_bytes_(max_bytes) {}

std::optional<RequestEvent> EventChannel::Next() {
  MutexLock lock(&mutex_);
  if (events_.empty()) return std::nullopt;
  RequestEvent event = std::move(events_.front());
  events_.pop_front();
  bytes_ -= EventBytes(event);
  full_since_.reset();
  return event;
}

void EventChannel::SetReadyCallback(std::function<void()> ready) {
  Callback now;
  {
    MutexLock lock(&mutex_);
    ready_ = ready ? std::make_shared<const std::function<void()>>(std::move(ready)) : nullptr;
    // A callback may replace itself: it need not wait for its own end.
    const auto others = [](std::thread::id id) { return id != std::this_thread::get_id(); };
    while (std::any_of(calling_.begin(), calling_.end(), others)) called_.Wait(&mutex_);
    if (!events_.empty()) now = BeginCall();
  }
  Call(now);
}

void EventChannel::KeepsReading() {
  MutexLock lock(&mutex_);
  full_since_.reset();
}

void EventChannel::Close() {
  std::deque<RequestEvent> unread;  // destroyed outside the lock
  MutexLock lock(&mutex_);
  closed_ = true;
  unread.swap(events_);
  bytes_ = 0;
  full_since_.reset();
}

void EventChannel::Put(RequestEvent event, absl::Time now) {
  Callback ready;
  {
    MutexLock lock(&mutex_);
    if (closed_ || ended_) return;
    ended_ = IsLast(event);
    const bool was_empty = events_.empty();
    Admit(std::move(event), now);
    if (was_empty) ready = BeginCall();
  }
  Call(ready);
}

bool EventChannel::closed() const {
  MutexLock lock(&mutex_);
  return closed_;
}

std::optional<absl::Time> EventChannel::full_since() const {
  MutexLock lock(&mutex_);
  return full_since_;
}

void EventChannel::Admit(RequestEvent event, absl::Time now) {
  if (std::holds_alternative<QueuedEvent>(event) && !events_.empty() &&
      std::holds_alternative<QueuedEvent>(events_.back())) {
    events_.back() = std::move(event);
    return;
  }
  if (bytes_ + EventBytes(event) > max_bytes_) {
    if (!full_since_) full_since_ = now;
    if (auto* progress = std::get_if<ProgressEvent>(&event)) {
      progress->preview.reset();
      if (bytes_ + kEventBytes > max_bytes_ && ReplaceProgress(progress)) return;
    }
  }
  Append(std::move(event));
}

void EventChannel::Append(RequestEvent event) {
  bytes_ += EventBytes(event);
  events_.push_back(std::move(event));
}

bool EventChannel::ReplaceProgress(ProgressEvent* event) {
  for (auto unread = events_.rbegin(); unread != events_.rend(); ++unread) {
    auto* progress = std::get_if<ProgressEvent>(&*unread);
    if (progress == nullptr || progress->image_index != event->image_index) continue;
    bytes_ -= PreviewBytes(*progress);
    *progress = std::move(*event);
    return true;
  }
  return false;
}

EventChannel::Callback EventChannel::BeginCall() {
  if (ready_) calling_.push_back(std::this_thread::get_id());
  return ready_;
}

void EventChannel::Call(const Callback& callback) {
  if (!callback) return;
  // Who cannot be told that there is something to read will read nothing.
  if (!GuardedVoid("the callback", *callback).ok()) Close();
  MutexLock lock(&mutex_);
  calling_.erase(std::find(calling_.begin(), calling_.end(), std::this_thread::get_id()));
  called_.NotifyAll();
}

}  // namespace fresco
