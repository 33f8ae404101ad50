#include "server/rpc/wire.h"

#include <algorithm>

namespace fresco {
namespace {

// The message's other fields (names of at most 64 bytes, a digest, numbers) take the rest of a mebibyte.
constexpr size_t kChunkBytes = (1 << 20) - (16 << 10);

v1::Warning::Kind ToWire(Warning::Kind kind) {
  switch (kind) {
    case Warning::Kind::kPromptTruncated:
      return v1::Warning::PROMPT_TRUNCATED;
    case Warning::Kind::kValueClamped:
      return v1::Warning::VALUE_CLAMPED;
    case Warning::Kind::kPrecisionFallback:
      return v1::Warning::PRECISION_FALLBACK;
  }
  return v1::Warning::KIND_UNSPECIFIED;
}

v1::Priority ToWire(RequestPriority priority) {
  switch (priority) {
    case RequestPriority::kInteractive:
      return v1::PRIORITY_INTERACTIVE;
    case RequestPriority::kStandard:
      return v1::PRIORITY_STANDARD;
    case RequestPriority::kBatch:
      return v1::PRIORITY_BATCH;
  }
  return v1::PRIORITY_UNSPECIFIED;
}

v1::Model::State ToWire(ModelState state) {
  switch (state) {
    case ModelState::kLoading:
      return v1::Model::LOADING;
    case ModelState::kReady:
      return v1::Model::READY;
    case ModelState::kFailed:
      return v1::Model::FAILED;
    case ModelState::kUnloaded:
      return v1::Model::UNLOADED;
    case ModelState::kUnloading:
      return v1::Model::UNLOADING;
  }
  return v1::Model::STATE_UNSPECIFIED;
}

void SetProvenance(const ImageProvenance& provenance, v1::Provenance* out) {
  out->set_model(provenance.model);
  out->set_weights_digest(provenance.weights_digest);
  out->set_calibration_digest(provenance.calibration_digest);
  out->set_precision(provenance.precision);
  out->set_device(provenance.device);
  out->set_software(provenance.software);
  out->set_steps(provenance.spec.steps);
  out->set_guidance_scale(provenance.spec.guidance_scale);
  out->set_sampler(provenance.sampler);
  out->set_batch_size_min(provenance.batch_size_min);
  out->set_batch_size_max(provenance.batch_size_max);
}

void SetTimings(const RequestTimings& timings, v1::Timings* out) {
  SetDuration(timings.queue, out->mutable_queue());
  SetDuration(timings.prepare, out->mutable_prepare());
  SetDuration(timings.denoise, out->mutable_denoise());
  SetDuration(timings.decode, out->mutable_decode());
  SetDuration(timings.encode, out->mutable_encode());
  SetDuration(timings.total, out->mutable_total());
}

}  // namespace

void SetDuration(absl::Duration duration, google::protobuf::Duration* out) {
  // google.protobuf.Duration's range: 10,000 years either way.
  constexpr int64_t kMaxSeconds = 315'576'000'000;
  const absl::Duration clamped = std::clamp(duration, -absl::Seconds(kMaxSeconds), absl::Seconds(kMaxSeconds));
  absl::Duration rest;
  out->set_seconds(absl::IDivDuration(clamped, absl::Seconds(1), &rest));
  out->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
}

void SetEvent(const QueuedEvent& event, const std::string& request_id, v1::GenerateEvent* out) {
  v1::Queued* queued = out->mutable_queued();
  queued->set_position(event.position);
  SetDuration(event.estimated_wait, queued->mutable_estimated_wait());
  queued->set_request_id(request_id);
}

void SetEvent(const StartedEvent& event, v1::GenerateEvent* out) {
  out->mutable_started()->set_device(event.device);
}

void SetEvent(const ProgressEvent& event, v1::GenerateEvent* out) {
  v1::Progress* progress = out->mutable_progress();
  progress->set_image_index(event.image_index);
  progress->set_step(event.step);
  progress->set_total_steps(event.total_steps);
  SetDuration(event.remaining, progress->mutable_remaining());
  if (!event.preview.has_value()) return;
  progress->set_preview(event.preview->bytes.str());
  progress->set_preview_mime_type(event.preview->mime_type);
}

void SetEvent(const CompletedEvent& event, v1::GenerateEvent* out) {
  v1::Completed* completed = out->mutable_completed();
  SetTimings(event.timings, completed->mutable_timings());
  completed->mutable_batch_sizes()->set_min(event.batch_size_min);
  completed->mutable_batch_sizes()->set_max(event.batch_size_max);
  completed->mutable_batch_sizes()->set_mean(event.batch_size_mean);
  completed->set_peak_memory_bytes(event.peak_memory_bytes);
  for (const Warning& warning : event.warnings) {
    v1::Warning* added = completed->add_warnings();
    added->set_kind(ToWire(warning.kind));
    added->set_field(warning.field);
    added->set_message(warning.message);
  }
}

size_t SetChunk(const ImageEvent& event, size_t offset, v1::GenerateEvent* out) {
  v1::ImageChunk* chunk = out->mutable_image();
  const std::string& bytes = event.image.bytes.str();
  const size_t size = std::min(kChunkBytes, bytes.size() - offset);
  chunk->set_image_index(event.image_index);
  chunk->set_mime_type(event.image.mime_type);
  chunk->set_seed(event.provenance.spec.seed);
  if (offset == 0) SetProvenance(event.provenance, chunk->mutable_provenance());
  chunk->set_data(bytes.data() + offset, size);
  chunk->set_offset(static_cast<int64_t>(offset));
  chunk->set_total_bytes(static_cast<int64_t>(bytes.size()));
  chunk->set_width(event.image.width);
  chunk->set_height(event.image.height);
  return offset + size;
}

void SetModel(const ModelStatus& status, const RequestLimits& limits, v1::Model* out) {
  out->set_name(status.name);
  out->set_state(ToWire(status.state));
  out->set_error(status.error);
  for (const std::string& device : status.devices) out->add_devices(device);
  out->set_max_steps(limits.max_steps);
  out->set_max_image_count(limits.max_image_count);
  if (status.engines.empty()) return;
  const ModelInfo& info = status.engines.front()->info();
  out->set_architecture(info.architecture);
  out->set_precision(info.precision);
  out->set_weights_digest(info.weights_digest);
  // As a request that leaves them out gets them: this server's limits hold for the model's own defaults too.
  const auto largest = [&](int limit) {
    return std::min(limit, info.max_size) / info.size_multiple * info.size_multiple;
  };
  out->set_default_width(std::min(info.default_width, largest(limits.max_width)));
  out->set_default_height(std::min(info.default_height, largest(limits.max_height)));
  out->set_default_steps(std::min(info.default_steps, limits.max_steps));
  out->set_default_guidance_scale(info.default_guidance_scale);
  out->set_default_max_sequence_length(info.default_max_sequence_length);
  out->set_size_multiple(info.size_multiple);
  out->set_max_width(largest(limits.max_width));
  out->set_max_height(largest(limits.max_height));
}

void SetRequest(const RequestSnapshot& snapshot, absl::Time now, v1::RunningRequest* out) {
  out->set_request_id(snapshot.id);
  out->set_model(snapshot.model);
  out->set_priority(ToWire(snapshot.priority));
  out->set_images_done(snapshot.images_done);
  out->set_image_count(snapshot.image_count);
  out->set_steps_done(snapshot.steps_done);
  out->set_total_steps(snapshot.total_steps);
  SetDuration(now - snapshot.received, out->mutable_age());
  out->set_waiting(snapshot.waiting);
}

}  // namespace fresco
