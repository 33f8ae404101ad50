#include "server/rpc/call_record.h"

#include <algorithm>
#include <variant>

#include "absl/strings/str_join.h"

namespace fresco {

void CallRecord::Take(const RequestEvent& event, absl::Time now) {
  MutexLock lock(&mutex_);
  std::visit([&](const auto& held) FRESCO_REQUIRES(mutex_) { Note(held, now); }, event);
}

void CallRecord::Note(const QueuedEvent& /*event*/, absl::Time /*now*/) {}

void CallRecord::Note(const StartedEvent& event, absl::Time now) {
  started_ = now;
  devices_.insert(event.device);
}

void CallRecord::Note(const ProgressEvent& event, absl::Time /*now*/) {
  int& steps = steps_[event.image_index];
  steps = std::max(steps, event.step);
}

void CallRecord::Note(const ImageEvent& event, absl::Time now) {
  if (!first_image_.has_value()) first_image_ = now;
  ++images_;
  image_bytes_ += static_cast<int64_t>(event.image.bytes.size());
  devices_.insert(event.provenance.device);
}

void CallRecord::Note(const CompletedEvent& event, absl::Time /*now*/) {
  costs_ = event;
}

void CallRecord::Note(const FailedEvent& event, absl::Time /*now*/) {
  if (started_.has_value()) costs_ = event.costs;
}

void CallRecord::WriteStarted(absl::Time now) {
  MutexLock lock(&mutex_);
  writing_since_ = now;
}

void CallRecord::WriteDone(absl::Time now) {
  MutexLock lock(&mutex_);
  EndWrite(now);
}

void CallRecord::EndWrite(absl::Time now) {
  if (!writing_since_.has_value()) return;
  if (!first_byte_.has_value()) first_byte_ = now;
  writing_ += now - *writing_since_;
  writing_since_.reset();
}

void CallRecord::DescribeCosts(LogFields* fields) const {
  // Without its last event, as of a caller who has left, the caller's own view is what there is.
  if (!costs_.has_value()) {
    if (started_.has_value()) fields->emplace_back("queue_s", absl::ToDoubleSeconds(*started_ - received_));
    return;
  }
  const RequestTimings& timings = costs_->timings;
  fields->insert(fields->end(), {{"queue_s", absl::ToDoubleSeconds(timings.queue)},
                                 {"prepare_s", absl::ToDoubleSeconds(timings.prepare)},
                                 {"denoise_s", absl::ToDoubleSeconds(timings.denoise)},
                                 {"decode_s", absl::ToDoubleSeconds(timings.decode)},
                                 {"encode_s", absl::ToDoubleSeconds(timings.encode)},
                                 {"texts_encoded", int64_t{costs_->texts_encoded}},
                                 {"prompt_cache_hit", costs_->texts_encoded == 0},
                                 {"batch_min", int64_t{costs_->batch_size_min}},
                                 {"batch_mean", costs_->batch_size_mean},
                                 {"batch_max", int64_t{costs_->batch_size_max}},
                                 {"peak_memory_bytes", costs_->peak_memory_bytes},
                                 {"warnings", static_cast<int64_t>(costs_->warnings.size())}});
}

void CallRecord::DescribeImages(LogFields* fields) const {
  if (!started_.has_value()) return;
  int64_t steps = 0;
  for (const auto& [image, done] : steps_) steps += done;
  fields->insert(fields->end(), {{"steps_done", steps}, {"images_done", images_}, {"image_bytes", image_bytes_}});
  if (first_image_.has_value()) fields->emplace_back("first_image_s", absl::ToDoubleSeconds(*first_image_ - received_));
}

void CallRecord::Describe(absl::Time now, LogFields* fields) {
  MutexLock lock(&mutex_);
  EndWrite(now);
  if (!devices_.empty()) fields->emplace_back("device", absl::StrJoin(devices_, ","));
  DescribeCosts(fields);
  DescribeImages(fields);
  if (first_byte_.has_value()) fields->emplace_back("first_byte_s", absl::ToDoubleSeconds(*first_byte_ - received_));
  fields->emplace_back("write_s", absl::ToDoubleSeconds(writing_));
  fields->emplace_back("total_s", absl::ToDoubleSeconds(now - received_));
}

}  // namespace fresco
