#include "server/rpc/stall_watch.h"

#include <algorithm>
#include <utility>

namespace fresco {
namespace {

// Below, a timer without anything to watch would do nothing but fire.
constexpr absl::Duration kShortest = absl::Milliseconds(1);

}  // namespace

std::shared_ptr<StallWatch> StallWatch::Start(absl::Duration limit, const Clock* clock,
                                              std::function<void()> on_stall) {
  auto watch = std::make_shared<StallWatch>(limit, clock, std::move(on_stall));
  MutexLock lock(&watch->mutex_);
  watch->Arm(clock->Now() + watch->limit_);
  return watch;
}

StallWatch::StallWatch(absl::Duration limit, const Clock* clock, std::function<void()> on_stall)
    : limit_(std::max(limit, kShortest)), clock_(clock), on_stall_(std::move(on_stall)) {}

void StallWatch::WriteStarted(absl::Duration more) {
  MutexLock lock(&mutex_);
  due_ = clock_->Now() + limit_ + more;
}

void StallWatch::WriteDone() {
  MutexLock lock(&mutex_);
  due_.reset();
}

void StallWatch::Stop() {
  MutexLock lock(&mutex_);
  stopped_ = true;
  if (alarm_ != nullptr) alarm_->Cancel();
}

void StallWatch::Arm(absl::Time due) {
  if (due == absl::InfiniteFuture()) return;
  // An alarm of its own each time: setting one again from its own callback would destroy the callback while it runs.
  alarm_ = std::make_unique<grpc::Alarm>();
  // The alarm keeps its callback even after it has been called, so the reference is moved out, or it would be a cycle.
  alarm_->Set(SystemTimeIn(due - clock_->Now()),
              [self = shared_from_this()](bool /*ok*/) mutable { std::exchange(self, nullptr)->Fire(); });
}

void StallWatch::Fire() {
  MutexLock lock(&mutex_);
  if (stopped_) return;
  const absl::Time now = clock_->Now();
  const absl::Time due = due_.value_or(now + limit_);
  if (due > now || !due_.has_value()) {
    Arm(due);
    return;
  }
  stopped_ = true;
  on_stall_();
}

}  // namespace fresco
