#include "client/ticker.h"

#include <utility>

namespace fresco {

Ticker::Ticker(absl::Duration interval, Clock* clock, std::function<void()> tick)
    : interval_(interval), clock_(clock), tick_(std::move(tick)), thread_([this] { Run(); }) {}

Ticker::~Ticker() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void Ticker::Run() {
  while (WaitForTick()) tick_();
}

bool Ticker::WaitForTick() {
  MutexLock lock(&mutex_);
  const absl::Time due = clock_->Now() + interval_;
  while (!stopped_ && clock_->Now() < due) clock_->WaitUntil(&changed_, &mutex_, due);
  return !stopped_;
}

}  // namespace fresco
