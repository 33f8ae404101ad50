// What the scheduler tells whoever measures it. Calls come from many threads, never with a lock held; they must be
// quick.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace fresco {

class SchedulerObserver {
 public:
  virtual ~SchedulerObserver() = default;
  // waiting requests of a model and priority ("interactive", "standard", "batch") changed to `depth`.
  virtual void OnQueueDepth(const std::string& /*model*/, const std::string& /*priority*/, int /*depth*/) {}
  virtual void OnRequestsRunning(int /*running*/) {}
  virtual void OnQueueWait(const std::string& /*model*/, absl::Duration /*wait*/) {}
  // One of the stages "prepare", "denoise" (all steps of one image), "decode", "preview", "encode".
  virtual void OnStage(const std::string& /*model*/, const std::string& /*stage*/, absl::Duration /*duration*/) {}
  virtual void OnStep(const std::string& /*model*/, const std::string& /*device*/, int /*batch_size*/,
                      absl::Duration /*duration*/) {}
  virtual void OnImage(const std::string& /*model*/) {}
  // A request that was accepted has ended.
  virtual void OnRequestDone(const std::string& /*id*/, const std::string& /*model*/, const absl::Status& /*status*/,
                             absl::Duration /*duration*/) {}
};

}  // namespace fresco
