#include "server/scheduler/request_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace fresco {
namespace {

bool SameWarning(const Warning& a, const Warning& b) {
  return a.kind == b.kind && a.field == b.field && a.message == b.message;
}

// Why a request should end by itself; OK: it should not.
absl::Status ReasonToEnd(absl::Time deadline, const EventChannel& channel, absl::Time now,
                         absl::Duration slow_reader_limit) {
  if (channel.closed()) return absl::CancelledError("the caller has gone away");
  if (now >= deadline) return absl::DeadlineExceededError("the request's deadline has passed");
  if (const auto since = channel.full_since(); since && now - *since >= slow_reader_limit) {
    return absl::ResourceExhaustedError(absl::StrCat("the caller has read nothing for ",
                                                     absl::FormatDuration(now - *since), " while events were waiting"));
  }
  return absl::OkStatus();
}

}  // namespace

void BatchSizes::Add(int size) {
  min = steps == 0 ? size : std::min(min, size);
  max = std::max(max, size);
  sum += size;
  ++steps;
}

absl::Status CopyForThread(const absl::Status& status) {
  absl::Status copy(status.code(), status.message());
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    copy.SetPayload(url, absl::Cord(std::string(payload)));
  });
  return copy;
}

RequestState::RequestState(GenerationRequest request, int64_t sequence, absl::Time received, int64_t channel_bytes,
                           Clock* clock)
    : request_(std::move(request)),
      sequence_(sequence),
      received_(received),
      channel_(request_.channel != nullptr ? request_.channel : std::make_shared<EventChannel>(channel_bytes)),
      output_(channel_, clock),
      deadline_(request_.deadline),
      holders_(static_cast<int>(request_.images.size())) {
  costs_.warnings = request_.warnings;
}

void RequestState::AskToEnd(const absl::Status& reason) {
  MutexLock lock(&mutex_);
  if (reason_.ok()) reason_ = CopyForThread(reason);
}

bool RequestState::ending() const {
  MutexLock lock(&mutex_);
  return !reason_.ok();
}

bool RequestState::started() const {
  MutexLock lock(&mutex_);
  return started_.has_value();
}

absl::Time RequestState::deadline() const {
  MutexLock lock(&mutex_);
  return deadline_;
}

void RequestState::SetDeadline(absl::Time deadline) {
  MutexLock lock(&mutex_);
  deadline_ = deadline;
}

bool RequestState::ShouldEnd(absl::Time now, absl::Duration slow_reader_limit) {
  if (ending()) return true;
  const absl::Status reason = ReasonToEnd(deadline(), *channel_, now, slow_reader_limit);
  if (!reason.ok()) AskToEnd(reason);
  return !reason.ok();
}

bool RequestState::Release() {
  MutexLock lock(&mutex_);
  return --holders_ == 0;
}

void RequestState::AddStart(absl::Time now) {
  MutexLock lock(&mutex_);
  started_ = now;
  costs_.timings.queue = now - received_;
}

void RequestState::AddPrepare(absl::Duration duration, int texts, const std::vector<Warning>& warnings) {
  MutexLock lock(&mutex_);
  costs_.timings.prepare += duration;
  costs_.texts_encoded += texts;
  for (const Warning& warning : warnings) {
    const auto same = [&](const Warning& known) { return SameWarning(known, warning); };
    if (std::none_of(costs_.warnings.begin(), costs_.warnings.end(), same)) costs_.warnings.push_back(warning);
  }
}

void RequestState::AddStep(absl::Time begin, absl::Time end, int batch_size) {
  MutexLock lock(&mutex_);
  if (!first_step_) first_step_ = begin;
  costs_.timings.denoise = end - *first_step_;
  batch_sizes_.Add(batch_size);
}

void RequestState::AddDecode(absl::Duration duration) {
  MutexLock lock(&mutex_);
  costs_.timings.decode += duration;
}

void RequestState::AddPeakMemory(int64_t bytes) {
  MutexLock lock(&mutex_);
  costs_.peak_memory_bytes = std::max(costs_.peak_memory_bytes, bytes);
}

void RequestState::AddEncode(absl::Duration duration) {
  MutexLock lock(&mutex_);
  costs_.timings.encode += duration;
  ++images_done_;
}

void RequestState::AddDeviceTime(absl::Duration share) {
  MutexLock lock(&mutex_);
  device_time_ += share;
}

Usage RequestState::usage() const {
  MutexLock lock(&mutex_);
  return {images_done_, batch_sizes_.steps, device_time_};
}

absl::Status RequestState::result() const {
  MutexLock lock(&mutex_);
  return CopyForThread(reason_);
}

RequestEvent RequestState::LastEvent(absl::Time now) const {
  MutexLock lock(&mutex_);
  CompletedEvent completed = costs_;
  completed.timings.total = now - received_;
  completed.batch_size_min = batch_sizes_.min;
  completed.batch_size_max = batch_sizes_.max;
  completed.batch_size_mean = batch_sizes_.mean();
  if (!reason_.ok()) return FailedEvent{CopyForThread(reason_), std::move(completed)};
  return completed;
}

RequestSnapshot RequestState::Snapshot() const {
  RequestSnapshot snapshot;
  snapshot.id = request_.id;
  snapshot.tenant = request_.tenant;
  snapshot.model = request_.model;
  snapshot.priority = request_.priority;
  snapshot.image_count = static_cast<int>(request_.images.size());
  for (const ImageSpec& spec : request_.images) snapshot.total_steps += spec.steps;
  snapshot.received = received_;
  MutexLock lock(&mutex_);
  snapshot.waiting = !started_;
  snapshot.images_done = images_done_;
  snapshot.steps_done = static_cast<int>(batch_sizes_.steps);
  return snapshot;
}

}  // namespace fresco
