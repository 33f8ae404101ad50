// An image that has been started, wherever it is: with the worker of the device that draws it or, preempted, with the
// dispatcher.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/policy/job.h"
#include "server/scheduler/request_state.h"

namespace fresco {

// Holds its request once, and is the only owner of its job.
struct ActiveImage {
  JobId id = 0;
  RequestPtr request;  // null: it has been let go of, or handed on with the picture
  int index = 0;       // in its request
  int engine = 0;      // of its device's
  ImageLoad load;
  std::unique_ptr<ImageJob> job;  // null: done with
  int64_t preview_due = -1;       // since which of its device's steps it waits for a preview; -1: it does not
  BatchSizes batch_sizes;
  absl::Duration denoise;
};

}  // namespace fresco
