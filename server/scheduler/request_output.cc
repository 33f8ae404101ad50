#include "server/scheduler/request_output.h"

#include <algorithm>
#include <utility>

namespace fresco {

RequestOutput::RequestOutput(std::shared_ptr<EventChannel> channel, Clock* clock)
    : channel_(std::move(channel)), clock_(clock) {}

void RequestOutput::Add(RequestEvent event) {
  MutexLock lock(&mutex_);
  if (!ended_) Send(std::move(event));
}

void RequestOutput::AddForImage(int image_index, RequestEvent event) {
  MutexLock lock(&mutex_);
  if (ended_) return;
  if (const auto held = held_.find(image_index); held != held_.end()) {
    held->second.push_back({std::move(event), true});
  } else {
    Send(std::move(event));
  }
}

void RequestOutput::Hold(ProgressEvent event) {
  MutexLock lock(&mutex_);
  if (ended_) return;
  const int image_index = event.image_index;
  held_[image_index].push_back({std::move(event), false});
}

void RequestOutput::Fill(int image_index, int step, std::optional<EncodedImage> preview) {
  MutexLock lock(&mutex_);
  const auto held = held_.find(image_index);
  if (held == held_.end()) return;
  std::deque<Held>& events = held->second;
  for (Held& waiting : events) {
    auto* progress = std::get_if<ProgressEvent>(&waiting.event);
    if (waiting.ready || progress == nullptr || progress->step != step) continue;
    progress->preview = std::move(preview);
    waiting.ready = true;
    break;
  }
  for (; !events.empty() && events.front().ready; events.pop_front()) Send(std::move(events.front().event));
  if (events.empty()) held_.erase(held);
}

int RequestOutput::held(int image_index) const {
  MutexLock lock(&mutex_);
  const auto held = held_.find(image_index);
  if (held == held_.end()) return 0;
  return static_cast<int>(
      std::count_if(held->second.begin(), held->second.end(), [](const Held& h) { return !h.ready; }));
}

void RequestOutput::End(RequestEvent last, std::function<void()> call) {
  MutexLock lock(&mutex_);
  for (auto& [image, events] : held_) {
    for (Held& waiting : events) Send(std::move(waiting.event));
  }
  held_.clear();
  ended_ = true;
  Send(std::move(last));
  calls_.Add(std::move(call));
}

void RequestOutput::Deliver() {
  calls_.Run();
}

void RequestOutput::Send(RequestEvent event) {
  calls_.Add([this, event = std::move(event)]() mutable { channel_->Put(std::move(event), clock_->Now()); });
}

}  // namespace fresco
