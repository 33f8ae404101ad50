// From an image whose steps are made to the picture that the writer gets: between a device's steps, on the thread that
// makes them, or beside them, on a thread of its own.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "pipeline/base/clock.h"
#include "server/scheduler/decode_queue.h"
#include "server/scheduler/device_caller.h"
#include "server/scheduler/dispatcher.h"
#include "server/scheduler/engine_loaders.h"
#include "server/scheduler/observer.h"
#include "server/scheduler/peak_meter.h"
#include "server/scheduler/picture_writer.h"
#include "server/scheduler/worker_context.h"

namespace fresco {

// Keeps nothing from call to call: any thread may use it.
class PictureDecoder {
 public:
  // `peaks` outlives its use.
  PictureDecoder(const WorkerContext& context, PeakMeter* peaks);

  // Decodes, and hands on or ends the request with why not; an image that is not wanted any more is let go of. One that
  // runs out of memory is the only one that fails, once it has had the device for itself. False: the device is lost
  // (the caller's ours() may say so), the image is still in `task`, and its request is the dispatcher's.
  bool Decode(DecodeTask* task, DeviceCaller* caller);

 private:
  // What the device held when a decode began, and what was being loaded onto some device.
  struct Before {
    int64_t allocated_bytes = 0;
    EngineLoaders::Mark loads;
    absl::Duration load_time;  // Engine::LoadSeconds
  };
  bool HandOn(DecodeTask* task, Image picture, const Before& before, DeviceCaller* caller);
  bool Fail(DecodeTask* task, const absl::Status& status);
  bool LetGo(DecodeTask* task);
  ImageProvenance ProvenanceOf(const DecodeTask& task) const;

  const int worker_;
  const std::string device_;
  const SchedulerOptions& options_;
  Clock* const clock_;
  SchedulerObserver* const observer_;
  Dispatcher* const dispatcher_;
  PictureWriter* const writer_;
  const EngineLoaders* const loaders_;
  PeakMeter* const peaks_;
};

}  // namespace fresco
