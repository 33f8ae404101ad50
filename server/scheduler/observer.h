// What the scheduler tells whoever measures it. Calls come from many threads, never with a lock held; they must be
// quick.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace fresco {

// Why requests are refused: too many wait, or too much work of their class; too much of their tenant; their deadline
// cannot be met; no device has the memory; their deadline had passed when they came; too many wait for models to be
// loaded; the model has no room in its device's memory budget.
inline constexpr std::string_view kDeadlinePassed = "deadline_passed", kModelQueueFull = "model_queue_full",
                                  kModelMemory = "model_memory";
inline constexpr std::array<std::string_view, 7> kRefusals = {"queue_full",    "tenant_share",  "deadline",  "memory",
                                                              kDeadlinePassed, kModelQueueFull, kModelMemory};

// What a request has taken, whatever became of it: images that were finished, steps over all images, and its share of
// the devices' time: of a step by its samples, of texts that were encoded together by their number.
struct Usage {
  int images = 0;
  int64_t steps = 0;
  absl::Duration device_time;
};

class SchedulerObserver {
 public:
  virtual ~SchedulerObserver() = default;
  // waiting requests of a model and priority ("interactive", "standard", "batch") changed to `depth`.
  virtual void OnQueueDepth(const std::string& /*model*/, const std::string& /*priority*/, int /*depth*/) {}
  virtual void OnRequestsRunning(int /*running*/) {}
  // A request starts; `predicted`: the wait that was expected when it came.
  virtual void OnQueueWait(const std::string& /*model*/, const std::string& /*priority*/, absl::Duration /*wait*/,
                           absl::Duration /*predicted*/) {}
  // A request was not taken for want of something: one of kRefusals.
  virtual void OnRefused(const std::string& /*model*/, const std::string& /*reason*/) {}
  // An image has left the device for host memory.
  virtual void OnPreempted(const std::string& /*model*/, const std::string& /*device*/) {}
  // A batch did not fit into the device's memory and goes on in halves.
  virtual void OnBatchSplit(const std::string& /*model*/, const std::string& /*device*/) {}
  // How much memory a device has, as it says itself; told whenever a model has been loaded there. Not told where it is
  // not known.
  virtual void OnDeviceMemory(const std::string& /*device*/, int64_t /*total_bytes*/) {}
  // A device is lost, for good: it hangs, or its context is.
  virtual void OnDeviceLost(const std::string& /*device*/, const std::string& /*reason*/) {}
  // An image goes on elsewhere, since the device that drew it is lost.
  virtual void OnImageMoved(const std::string& /*model*/, const std::string& /*device*/) {}
  // One of the stages "prepare", "denoise" (all steps of one image), "decode", "preview", "encode".
  virtual void OnStage(const std::string& /*model*/, const std::string& /*stage*/, absl::Duration /*duration*/) {}
  virtual void OnStep(const std::string& /*model*/, const std::string& /*device*/, int /*batch_size*/,
                      absl::Duration /*duration*/) {}
  // Of a step that was made in one forward, before it began; only where something is known.
  virtual void OnStepPredicted(const std::string& /*model*/, const std::string& /*device*/,
                               absl::Duration /*predicted*/, absl::Duration /*duration*/) {}
  virtual void OnImage(const std::string& /*model*/) {}
  // A request that was accepted has ended.
  virtual void OnRequestDone(const std::string& /*id*/, const std::string& /*model*/, const absl::Status& /*status*/,
                             absl::Duration /*duration*/) {}
  // At the same time; `tenant` as the request said it, "" where it said none.
  virtual void OnUsage(const std::string& /*tenant*/, const Usage& /*usage*/) {}
};

}  // namespace fresco
