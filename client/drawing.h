// A request to draw and what comes back of it, free of the wire's types.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "pipeline/image/codec.h"

namespace fresco {

enum class DrawPriority { kStandard, kInteractive, kBatch };

// Zeros and empty texts leave a choice to the server.
struct DrawRequest {
  std::string model;
  std::string prompt;
  std::optional<std::string> prompt_2;  // CLIP-G's own; unset: prompt
  std::optional<std::string> prompt_3;  // T5's own; unset: prompt
  std::string negative_prompt;
  int clip_skip = 0;
  std::optional<bool> noise_correction;
  bool deterministic = false;
  int max_sequence_length = 0;  // T5 tokens
  int width = 0;                // pixels
  int height = 0;               // pixels
  int steps = 0;
  std::optional<float> guidance;
  std::optional<uint64_t> seed;
  int count = 1;
  ImageFormat format = ImageFormat::kPng;
  int quality = 0;
  int preview_every = 0;
  DrawPriority priority = DrawPriority::kStandard;
  std::string request_id;
};

struct DrawProgress {
  int image_index = 0;
  int step = 0;
  int total_steps = 0;
  absl::Duration remaining;
  std::string preview;  // an encoded picture; usually empty
};

struct DrawnProvenance {
  std::string model, weights_digest, precision, device, software, sampler;
  std::string calibration_digest;  // empty: not calibrated
  int steps = 0;
  float guidance = 0;
};

struct DrawnImage {
  int index = 0;
  uint64_t seed = 0;
  int width = 0;
  int height = 0;
  std::string mime_type;
  std::string bytes;
  DrawnProvenance provenance;
};

struct DrawSummary {
  std::string request_id;
  std::string trace_id;     // of the W3C trace that the call was, 32 digits
  std::string traceparent;  // the server's span in it, as it answered; empty: it did not
  absl::Duration queue, prepare, denoise, decode, encode, total;
  int batch_size_min = 0;
  int batch_size_max = 0;
  double batch_size_mean = 0;
  int64_t peak_memory_bytes = 0;
  std::vector<std::string> warnings;
};

// Hears of a request while it is drawn, on the thread that waits for it.
class DrawObserver {
 public:
  virtual ~DrawObserver() = default;
  virtual void OnQueued(int position, absl::Duration estimated_wait) = 0;
  virtual void OnStarted(const std::string& device) = 0;
  virtual void OnProgress(const DrawProgress& progress) = 0;
  // An error ends the request.
  virtual absl::Status OnImage(DrawnImage image) = 0;
};

}  // namespace fresco
