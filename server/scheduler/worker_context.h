// What the parts of a device's worker are given alike.
#pragma once

#include <string>

#include "pipeline/base/clock.h"
#include "server/scheduler/dispatcher.h"
#include "server/scheduler/engine_loaders.h"
#include "server/scheduler/observer.h"
#include "server/scheduler/picture_writer.h"
#include "server/scheduler/scheduler.h"

namespace fresco {

// All that it points to outlives its use.
struct WorkerContext {
  int index = 0;  // the dispatcher's number of the worker
  std::string device;
  const SchedulerOptions* options = nullptr;
  Clock* clock = nullptr;
  SchedulerObserver* observer = nullptr;
  Dispatcher* dispatcher = nullptr;
  PictureWriter* writer = nullptr;
  const EngineLoaders* loaders = nullptr;
};

}  // namespace fresco
