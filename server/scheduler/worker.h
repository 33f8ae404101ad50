// The one thread that computes on a device. At every step boundary it lets go of what should end, takes what the
// dispatcher gives it, and advances one batch by one step; whatever does not need the device happens elsewhere.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "pipeline/base/clock.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/dispatcher.h"
#include "server/scheduler/observer.h"
#include "server/scheduler/picture_writer.h"
#include "server/scheduler/policy.h"
#include "server/scheduler/request_state.h"

namespace fresco {

class DeviceWorker {
 public:
  // All outlive the worker. `index`: the dispatcher's number of it.
  DeviceWorker(int index, std::string device, const SchedulerOptions* options, Clock* clock,
               SchedulerObserver* observer, Dispatcher* dispatcher, PictureWriter* writer);

  // The thread's body; returns after Dispatcher::Stop. The engines live on until the worker is destroyed.
  void Run();

 private:
  struct LoadedEngine {
    std::string model;
    std::unique_ptr<Engine> engine;
  };
  // An image in flight: holds its request once, and is the only owner of its job.
  struct ActiveImage {
    RequestPtr request;
    int index = 0;   // in its request
    int engine = 0;  // in engines_
    std::string batch_key;
    std::unique_ptr<ImageJob> job;  // null: done with here, to be removed
    int64_t last_step = 0;          // see RunningImage
    BatchSizes batch_sizes;
    absl::Duration denoise;
  };

  void Load(const LoadTask& task);
  absl::StatusOr<const Engine*> LoadEngineFor(const LoadTask& task);
  void DropEnding();
  void Start(const StartOrder& order);
  void Advance();
  void StepBatch(absl::Span<ActiveImage* const> batch);
  void AddStep(ActiveImage* image, const absl::Status& status, absl::Time begin, absl::Time end, int batch_size);
  void ReportProgress(ActiveImage* image);
  bool WantsPreview(const ActiveImage& image) const;
  bool SendPreview(ActiveImage* image, const ProgressEvent& event);
  void Finish(ActiveImage* image);
  // What the device has held since the last call counts for every request that is on it.
  void RecordPeakMemory(Engine* engine);
  void Fail(ActiveImage* image, const absl::Status& status);
  void RemoveDone();

  std::vector<RunningImage> Running() const;
  absl::Duration Remaining(const ActiveImage& image) const;
  ImageProvenance ProvenanceOf(const ActiveImage& image) const;
  Engine* EngineOf(const ActiveImage& image) const { return engines_[image.engine].engine.get(); }
  const std::string& ModelOf(const ActiveImage& image) const { return engines_[image.engine].model; }

  const int index_;
  const std::string device_;
  const SchedulerOptions& options_;
  Clock* const clock_;
  SchedulerObserver* const observer_;
  Dispatcher* const dispatcher_;
  PictureWriter* const writer_;

  // The thread's own.
  std::vector<LoadedEngine> engines_;
  std::vector<std::unique_ptr<ActiveImage>> active_;
  int64_t steps_ = 0;
};

}  // namespace fresco
