// Notices that files have changed: in place, by a rename, or behind a symbolic link, as Kubernetes and certificate
// tools do.
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"

namespace fresco {

class FileWatch {
 public:
  // The files are first looked at now: make it before they are read, or what changes meanwhile is seen by nobody.
  // `clock` outlives it.
  FileWatch(std::vector<std::string> paths, absl::Duration interval, Clock* clock,
            std::function<void(bool changed)> on_look);
  // From now on looks every `interval`, on a thread of its own, which calls `on_look` with whether any of the files is
  // another than when it was last looked at. Call it once.
  void Start();
  // Waits for a call that is running.
  ~FileWatch();

 private:
  void Run();

  const std::vector<std::string> paths_;
  const absl::Duration interval_;
  Clock* const clock_;
  const std::function<void(bool)> on_look_;
  Mutex mutex_;
  CondVar stopping_;
  bool stop_ FRESCO_GUARDED_BY(mutex_) = false;
  std::string seen_;  // of the thread, once there is one
  std::thread thread_;
};

}  // namespace fresco
