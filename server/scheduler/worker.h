// The threads of a device. One computes: at every step boundary it does what the dispatcher says: lets go of what
// should end, decodes what is done, moves what is preempted to host memory, starts or resumes what is to start, and
// advances one batch by one step; whatever does not need the device happens elsewhere. There may be a second one, which
// decodes beside it.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "pipeline/base/clock.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/active_image.h"
#include "server/scheduler/decode_queue.h"
#include "server/scheduler/device_caller.h"
#include "server/scheduler/device_watch.h"
#include "server/scheduler/dispatcher.h"
#include "server/scheduler/engine_calls.h"
#include "server/scheduler/engine_loaders.h"
#include "server/scheduler/memory_report.h"
#include "server/scheduler/observer.h"
#include "server/scheduler/peak_meter.h"
#include "server/scheduler/picture_decoder.h"
#include "server/scheduler/picture_writer.h"
#include "server/scheduler/policy/preview_budget.h"
#include "server/scheduler/policy/step_size.h"
#include "server/scheduler/request_state.h"
#include "server/scheduler/worker_context.h"

namespace fresco {

class DeviceWorker {
 public:
  // What the context points to outlives Run, but for what it says. `decoder`: null where there is no such thread.
  DeviceWorker(const WorkerContext& context, std::shared_ptr<DeviceWatch> watch, std::shared_ptr<DecodeQueue> decoder);

  // The thread's body; returns after Dispatcher::Stop, or when the device is lost: then, should it come back from a
  // call that hung, nothing of what the constructor was given is used any more but the watch. The engines live on until
  // the worker is destroyed.
  void Run();
  // The decoder's, where there is one: returns after Run has or when the device is lost, and the same is true of it.
  void RunDecoder();

 private:
  struct LoadedEngine {
    std::string model;
    std::shared_ptr<Engine> engine;  // null: the slot is free
    int64_t weight_bytes = 0;
    struct UntimedStep {
      uint64_t step = 0;  // Engine::LastStep's
      StepSize size;
      int images = 0;
      absl::Duration predicted;
    };
    std::deque<UntimedStep> untimed = {};  // steps that go on after their call, the oldest first
  };
  using Batch = std::vector<ActiveImage*>;

  void Load(LoadTask* task);
  absl::StatusOr<EngineView> LoadEngineFor(LoadTask* task);
  absl::Status MakeReady(const std::string& model, Engine* engine, int64_t weight_bytes);
  void Measure(const std::string& model, Engine* engine);
  void Destroy(ReturnedEngine returned);
  void Vacate(VacatedSlot vacated);
  void Lose(const absl::Status& loss);
  // What comes before an image's steps and after them (worker_stages.cc).
  void Start(std::vector<StartOrder> orders);
  ActiveImage* Enter(const StartOrder& order);
  void Prepare(const std::vector<ActiveImage*>& images);
  PreparedJobs PrepareTogether(const std::vector<ActiveImage*>& images);
  PreparedJobs CallPrepareOf(absl::Span<ActiveImage* const> images);
  void Resume(StartOrder order);
  void Decode(JobId id);
  DecodeTask TaskOf(std::unique_ptr<ActiveImage> image) const;
  void Park(JobId id);
  Batch BatchOf(const std::vector<JobId>& ids);
  static std::vector<Batch> PartsOf(const Batch& batch);
  void Advance(const Work& work);
  // A call of an engine, under the watch. Whoever calls looks at lost_ before anything else.
  template <typename Call>
  auto Watched(DeviceCall kind, int64_t size, absl::Duration predicted, const Call& call,
               Company company = Company::kAny) -> decltype(call());
  void NoteLoss();
  void Serve();
  void Do(Work work);
  void KeepSnapshots(const Batch& batch);
  void StepBatch(absl::Span<ActiveImage* const> batch, std::vector<Forward>* forwards);
  // Of a step that the engine has just made: whether it goes on after its call, and its time comes later.
  bool AwaitTime(LoadedEngine* loaded, const std::vector<JobId>& images, absl::Duration predicted);
  void LearnStepTimes(LoadedEngine* loaded);
  void TellStep(const std::string& model, int images, absl::Duration predicted, absl::Duration took);
  void AddStep(ActiveImage* image, const absl::Status& status, absl::Time begin, absl::Time end, int batch_size);
  // What callers hear of a step (worker_progress.cc).
  void ReportProgress(const Batch& batch, const std::vector<absl::Duration>& remaining, bool others);
  void SendProgress(const ActiveImage& image, ProgressEvent event);
  bool WantsPreview(ActiveImage* image);
  bool SendPreview(ActiveImage* image, const ProgressEvent& event);
  // What the device has held since the last call counts for every request that is on it. This, TakePeakBytes and
  // Explain ask the device: whoever calls them looks at lost_ before anything else.
  int64_t RecordPeakMemory(Engine* engine);
  // Of that, what is neither weights nor what the images keep from step to step.
  int64_t ActivationsOf(int64_t peak_bytes) const;
  // Weights, and what the images keep from step to step.
  int64_t KeptBytes() const;
  // The most that the device has held since this was called last.
  int64_t TakePeakBytes(Engine* engine);
  // Who holds the device's memory beside the image.
  MemoryReport ReportOf(const ActiveImage& image) const;
  // So that requests that cannot fit are refused at once.
  void AskMemory(Engine* engine);
  void TellMemory();
  // With that, where memory has run out.
  absl::Status Explain(const ActiveImage& image, const absl::Status& status, int64_t predicted, int64_t seen);
  // Ends the image's request; what is left of the image goes with LetGo.
  void Fail(ActiveImage* image, const absl::Status& status);
  void ReleaseRequestOf(ActiveImage* image);
  void LetGo(JobId id);

  Engine* EngineOf(const ActiveImage& image) const { return engines_[image.engine].engine.get(); }
  const std::string& ModelOf(const ActiveImage& image) const { return engines_[image.engine].model; }

  const int index_;
  const std::string device_;
  const SchedulerOptions& options_;
  Clock* const clock_;
  SchedulerObserver* const observer_;
  Dispatcher* const dispatcher_;
  PictureWriter* const writer_;
  const std::shared_ptr<DeviceWatch> watch_;
  const std::shared_ptr<DecodeQueue> decoder_queue_;  // null: it has no decoder
  const EngineLoaders* const loaders_;
  PeakMeter peaks_;
  PictureDecoder decoder_;  // of whichever thread decodes

  // The compute thread's own.
  DeviceCaller caller_;
  bool lost_ = false;                                     // the device; its images' requests are the dispatcher's
  std::vector<LoadedEngine> engines_;                     // by slot
  std::map<JobId, std::unique_ptr<ActiveImage>> active_;  // on the device
  std::vector<std::unique_ptr<ImageJob>> measuring_;      // likewise, of a model that is being loaded
  std::vector<DecodeTask> abandoned_;                     // likewise, of a device that is lost
  int64_t weight_bytes_ = 0;                              // of all engines
  int64_t device_bytes_ = 0;                              // that the device has; 0: not known
  int64_t steps_ = 0;
  PreviewBudget previews_;

  // The decoder's.
  DeviceCaller decoder_caller_;
  std::vector<DecodeTask> abandoned_beside_;
};

template <typename Call>
auto DeviceWorker::Watched(DeviceCall kind, int64_t size, absl::Duration predicted, const Call& call, Company company)
    -> decltype(call()) {
  auto result = caller_.Make(kind, size, predicted, call, company);
  if (!caller_.ours()) NoteLoss();
  return result;
}

}  // namespace fresco
