// What the line that is logged of a call says of its way: each stage's time, the batches and devices, and when its
// caller was given what.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "absl/time/time.h"
#include "pipeline/base/mutex.h"
#include "server/log/logger.h"
#include "server/scheduler/events.h"

namespace fresco {

// Thread-safe. Times are by one clock, whose own `received` is when the call came.
class CallRecord {
 public:
  explicit CallRecord(absl::Time received) : received_(received) {}

  // The caller is given this, in the order of the channel.
  void Take(const RequestEvent& event, absl::Time now);
  // Bytes are handed to the connection, and it has taken them; one write at a time.
  void WriteStarted(absl::Time now);
  void WriteDone(absl::Time now);

  // Appends what is known, once the call has ended: `total_s` always, the rest as far as it came. A write that has not
  // been said to be done ends now.
  void Describe(absl::Time now, LogFields* fields);

 private:
  void Note(const QueuedEvent& event, absl::Time now) FRESCO_REQUIRES(mutex_);
  void Note(const StartedEvent& event, absl::Time now) FRESCO_REQUIRES(mutex_);
  void Note(const ProgressEvent& event, absl::Time now) FRESCO_REQUIRES(mutex_);
  void Note(const ImageEvent& event, absl::Time now) FRESCO_REQUIRES(mutex_);
  void Note(const CompletedEvent& event, absl::Time now) FRESCO_REQUIRES(mutex_);
  void Note(const FailedEvent& event, absl::Time now) FRESCO_REQUIRES(mutex_);
  void EndWrite(absl::Time now) FRESCO_REQUIRES(mutex_);
  void DescribeCosts(LogFields* fields) const FRESCO_REQUIRES(mutex_);
  void DescribeImages(LogFields* fields) const FRESCO_REQUIRES(mutex_);

  const absl::Time received_;
  Mutex mutex_;
  std::optional<absl::Time> started_ FRESCO_GUARDED_BY(mutex_);      // as its caller was told
  std::set<std::string> devices_ FRESCO_GUARDED_BY(mutex_);          // that it was on
  std::map<int, int> steps_ FRESCO_GUARDED_BY(mutex_);               // done, by image
  std::optional<CompletedEvent> costs_ FRESCO_GUARDED_BY(mutex_);    // nothing: the last event was not taken
  int64_t images_ FRESCO_GUARDED_BY(mutex_) = 0;                     // given to the caller
  int64_t image_bytes_ FRESCO_GUARDED_BY(mutex_) = 0;                // of their files
  std::optional<absl::Time> first_image_ FRESCO_GUARDED_BY(mutex_);  // was there to be given
  std::optional<absl::Time> first_byte_ FRESCO_GUARDED_BY(mutex_);   // was taken
  std::optional<absl::Time> writing_since_ FRESCO_GUARDED_BY(mutex_);
  absl::Duration writing_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
