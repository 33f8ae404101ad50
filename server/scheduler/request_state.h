// A request that was accepted, until its last event: what was asked, why it should end if it should, and what it has
// cost. It ends when nobody holds it any more: whoever has one of its images, the dispatcher, a device's worker or the
// encoder, holds it once for that image.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"
#include "server/scheduler/event_channel.h"
#include "server/scheduler/events.h"
#include "server/scheduler/observer.h"
#include "server/scheduler/request_output.h"
#include "server/scheduler/scheduler.h"

namespace fresco {

// The fewest, the most, and the mean number of images that shared a step.
struct BatchSizes {
  void Add(int size);
  double mean() const { return steps == 0 ? 0 : static_cast<double>(sum) / static_cast<double>(steps); }

  int min = 0;
  int max = 0;
  int64_t sum = 0;
  int64_t steps = 0;
};

// A copy that shares no memory with `status`: abseil counts a status's users in its library, which ThreadSanitizer
// cannot see into, so that a status is not shared between threads here.
absl::Status CopyForThread(const absl::Status& status);

// Thread-safe.
class RequestState {
 public:
  // Held once for each of its images.
  RequestState(GenerationRequest request, int64_t sequence, absl::Time received, int64_t channel_bytes, Clock* clock);

  // Constant.
  const GenerationRequest& request() const { return request_; }
  int64_t sequence() const { return sequence_; }  // place in the order of arrival
  absl::Time received() const { return received_; }
  const std::shared_ptr<EventChannel>& channel() const { return channel_; }
  RequestOutput* output() { return &output_; }

  // Asks that it end with `reason`; the first reason counts.
  void AskToEnd(const absl::Status& reason);
  bool ending() const;
  bool started() const;
  // It is ending, or nobody reads its events any more: what it is called may be another's name.
  bool given_up() const { return ending() || channel_->closed(); }
  // Later is useless; the request's own at first.
  absl::Time deadline() const;
  void SetDeadline(absl::Time deadline);
  // Looks at the deadline and at the reader, asks to end where they say so, and tells whether it is ending.
  bool ShouldEnd(absl::Time now, absl::Duration slow_reader_limit);

  // True: nobody holds it now; the caller ends it.
  bool Release();

  // What its images cost, as it happens.
  void AddStart(absl::Time now);
  // `texts`: that were encoded for it.
  void AddPrepare(absl::Duration duration, int texts, const std::vector<Warning>& warnings);
  void AddStep(absl::Time begin, absl::Time end, int batch_size);
  void AddDecode(absl::Duration duration);
  // The device has held so much while this request was on it.
  void AddPeakMemory(int64_t bytes);
  void AddEncode(absl::Duration duration);
  // Its part of a device's time, in whatever stage.
  void AddDeviceTime(absl::Duration share);

  Usage usage() const;

  // Once it is ended: OK or why it failed; and its last event.
  absl::Status result() const;
  RequestEvent LastEvent(absl::Time now) const;

  RequestSnapshot Snapshot() const;

 private:
  const GenerationRequest request_;
  const int64_t sequence_;
  const absl::Time received_;
  const std::shared_ptr<EventChannel> channel_;
  RequestOutput output_;

  mutable Mutex mutex_;
  absl::Status reason_ FRESCO_GUARDED_BY(mutex_);  // not OK: it should end
  absl::Time deadline_ FRESCO_GUARDED_BY(mutex_);
  int holders_ FRESCO_GUARDED_BY(mutex_);
  std::optional<absl::Time> started_ FRESCO_GUARDED_BY(mutex_);
  std::optional<absl::Time> first_step_ FRESCO_GUARDED_BY(mutex_);
  CompletedEvent costs_ FRESCO_GUARDED_BY(mutex_);  // but what follows from the members around it
  BatchSizes batch_sizes_ FRESCO_GUARDED_BY(mutex_);
  int images_done_ FRESCO_GUARDED_BY(mutex_) = 0;
  absl::Duration device_time_ FRESCO_GUARDED_BY(mutex_);
};

using RequestPtr = std::shared_ptr<RequestState>;

}  // namespace fresco
