// What a device works on next: pure functions of what waits, what runs, and the clock. They see indices and numbers, no
// requests and no engines, so that a table of cases tests them, and so that a better policy takes their place without
// touching the threads around them.
//
// This policy: images start in the order of their requests' priority and arrival while fewer than max_batch are in
// flight on the device. Running images that can share a forward (same engine, same batch key) form a group; every step
// advances one whole group, the one whose least recently advanced image has waited longest, so that no group starves
// whatever arrives.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/time/time.h"

namespace fresco {

struct PolicyOptions {
  int max_batch = 8;  // images in flight on the device
};

// An image that the device could start, of a request that waits or has some images started here.
struct WaitingImage {
  int engine = 0;              // which of the device's engines would draw it
  std::string_view batch_key;  // Engine::BatchKey
  int priority = 0;            // lower goes first
  int64_t sequence = 0;        // its request's place in the order of arrival
  int image_index = 0;         // in its request
  int steps = 0;
  absl::Time received;
  absl::Time deadline;
};

// An image in flight on the device.
struct RunningImage {
  int engine = 0;
  std::string_view batch_key;
  int priority = 0;
  int64_t sequence = 0;
  int steps_left = 0;  // above 0
  int64_t last_step =
      0;  // number of the device's step that advanced it last; before that, of the last one before it joined
  absl::Time deadline;
};

struct PolicyView {
  absl::Time now;
  std::vector<WaitingImage> waiting;
  std::vector<RunningImage> running;
};

// Indices into view.waiting, distinct, in the order in which to start them.
std::vector<int> ImagesToStart(const PolicyView& view, const PolicyOptions& options);

// Indices into view.running, distinct: the images of the next step, all of one engine and batch key. Empty only when
// nothing runs.
std::vector<int> NextBatch(const PolicyView& view, const PolicyOptions& options);

}  // namespace fresco
