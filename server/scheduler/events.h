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
#include "server/scheduler/shared_bytes.h"

namespace fresco {

struct QueuedEvent {
  int position = 0;               // requests served before this one
  absl::Duration estimated_wait;  // until it starts, as predicted when this was said
};

struct StartedEvent {
  std::string device;  // "cpu", "cuda:0"
};

// An encoded picture (PNG, JPEG, WebP bytes).
struct EncodedImage {
  SharedBytes bytes;
  std::string mime_type;  // "image/png"
  int width = 0;          // pixels
  int height = 0;         // pixels
};

struct ProgressEvent {
  int image_index = 0;                  // in the request, from 0
  int step = 0;                         // denoising steps done, of total_steps
  int total_steps = 0;                  // of this image
  absl::Duration remaining;             // of its denoising, as predicted now
  std::optional<EncodedImage> preview;  // at most GenerationRequest::preview_max_side pixels a side
};

struct ImageEvent {
  int image_index = 0;  // in the request, from 0
  EncodedImage image;
  ImageProvenance provenance;
};

// By the scheduler's clock. `prepare`, `decode` and `encode` are summed over the images; `denoise` runs from the first
// step of any to the last of any, `total` from the request's arrival to its end.
struct RequestTimings {
  absl::Duration queue, prepare, denoise, decode, encode, total;
};

struct CompletedEvent {
  RequestTimings timings;
  // Images that shared a step, over all steps of this request.
  int batch_size_min = 0;
  int batch_size_max = 0;
  double batch_size_mean = 0;
  int64_t peak_memory_bytes = 0;  // that the device has held while the request was on it
  int texts_encoded = 0;          // that were not in the cache
  std::vector<Warning> warnings;
};

struct FailedEvent {
  absl::Status status;   // never OK
  CompletedEvent costs;  // until then; zeros where nothing was begun
};

using RequestEvent = std::variant<QueuedEvent, StartedEvent, ProgressEvent, ImageEvent, CompletedEvent, FailedEvent>;

}  // namespace fresco
