// Finished images on their way from the thread that computes on a device to the one that decodes beside it. How many
// there may be the dispatcher decides (DeviceLimits::decoding).
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "pipeline/base/mutex.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/active_image.h"
#include "server/scheduler/memory_report.h"

namespace fresco {

struct DecodeTask {
  std::unique_ptr<ActiveImage> image;  // its steps are made
  std::shared_ptr<Engine> engine;      // that has made them
  std::string model;
  MemoryReport report;     // as it was when it was handed over, for the case that memory runs out
  int64_t peak_bytes = 0;  // once it is decoded: the most that the device has held meanwhile
};

// Thread-safe.
class DecodeQueue {
 public:
  void Add(DecodeTask task);
  // Waits for one; nothing: the queue is closed and empty.
  std::optional<DecodeTask> Next();
  // Nothing is added any more.
  void Close();

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<DecodeTask> tasks_ FRESCO_GUARDED_BY(mutex_);
  bool closed_ FRESCO_GUARDED_BY(mutex_) = false;
};

}  // namespace fresco
