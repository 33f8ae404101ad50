// What happens to a request, in the order in which its caller hears of it: Queued*, Started, (Progress | ImageReady)*,
// then exactly one of Completed or Failed. Torch- and protobuf-free.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/picture_metadata.h"

namespace fresco {

struct QueuedEvent {
  int position = 0;  // requests served before this one
  absl::Duration estimated_wait;
};

struct StartedEvent {
  std::string device;
};

// An encoded picture (PNG, JPEG, WebP bytes).
struct EncodedImage {
  std::string bytes;
  std::string mime_type;
  int width = 0;
  int height = 0;
};

struct ProgressEvent {
  int image_index = 0;
  int step = 0;
  int total_steps = 0;
  absl::Duration remaining;
  std::optional<EncodedImage> preview;
};

struct ImageEvent {
  int image_index = 0;
  EncodedImage image;
  ImageProvenance provenance;
};

struct RequestTimings {
  absl::Duration queue, prepare, denoise, decode, encode, total;
};

struct CompletedEvent {
  RequestTimings timings;
  int batch_size_min = 0;
  int batch_size_max = 0;
  double batch_size_mean = 0;
  int64_t peak_memory_bytes = 0;
  std::vector<Warning> warnings;
};

struct FailedEvent {
  absl::Status status;  // never OK
};

using RequestEvent = std::variant<QueuedEvent, StartedEvent, ProgressEvent, ImageEvent, CompletedEvent, FailedEvent>;

}  // namespace fresco
