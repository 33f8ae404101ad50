// How long things will take, from how long they took.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "pipeline/base/mutex.h"

namespace fresco {

class Engine;

// A running average of the duration of a step, per engine and batch key. Thread-safe.
class StepTimes {
 public:
  void Record(const Engine* engine, const std::string& batch_key, absl::Duration step);
  // For a key that has not run yet: the engine's average over all keys; zero when nothing has run.
  absl::Duration Get(const Engine* engine, const std::string& batch_key) const;

 private:
  mutable Mutex mutex_;
  std::map<std::pair<const Engine*, std::string>, absl::Duration> by_key_ FRESCO_GUARDED_BY(mutex_);
  std::map<const Engine*, absl::Duration> by_engine_ FRESCO_GUARDED_BY(mutex_);
};

// A device that draws up to `slots` images at once. `busy`: until each of those in flight is done.
struct DeviceLoad {
  int slots = 1;
  std::vector<absl::Duration> busy;
};

// A waiting request: how many images, and on which devices (indices), each with how long an image takes there.
struct WaitingWork {
  int images = 1;
  std::vector<std::pair<int, absl::Duration>> devices;
};

// Until the first image of each waiting request starts, if each goes in turn to the device that is free first. Pure.
std::vector<absl::Duration> EstimateWaits(const std::vector<DeviceLoad>& devices,
                                          const std::vector<WaitingWork>& waiting);

}  // namespace fresco
