#include "server/scheduler/worker.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "pipeline/base/status.h"
#include "server/scheduler/engine_calls.h"
#include "server/scheduler/guarded.h"
#include "server/scheduler/load_measurement.h"
#include "server/scheduler/out_of_memory.h"
#include "server/scheduler/step_profiler.h"

namespace fresco {
namespace {

// In no curve: no time is asked for by it.
StepSize RowsOf(const ImageLoad& load) {
  StepSize rows;
  rows.Add(/*curve=*/0, load.tokens, load.rows);
  return rows;
}

bool AllOutOfMemory(const std::vector<absl::Status>& statuses) {
  return std::all_of(statuses.begin(), statuses.end(),
                     [](const absl::Status& s) { return absl::IsResourceExhausted(s); });
}

}  // namespace

DeviceWorker::DeviceWorker(const WorkerContext& context, std::shared_ptr<DeviceWatch> watch,
                           std::shared_ptr<DecodeQueue> decoder)
    : index_(context.index),
      device_(context.device),
      options_(*context.options),
      clock_(context.clock),
      observer_(context.observer),
      dispatcher_(context.dispatcher),
      writer_(context.writer),
      watch_(std::move(watch)),
      decoder_queue_(std::move(decoder)),
      loaders_(context.loaders),
      decoder_(context, &peaks_),
      caller_(watch_.get(), DeviceThread::kCompute, clock_),
      previews_(options_.preview_share),
      decoder_caller_(watch_.get(), DeviceThread::kDecode, clock_) {}

void DeviceWorker::Run() {
  Serve();
  if (decoder_queue_ != nullptr) decoder_queue_->Close();
  if (!lost_) dispatcher_->Leave(index_);
  watch_->Leave(DeviceThread::kCompute);
}

void DeviceWorker::RunDecoder() {
  while (std::optional<DecodeTask> task = decoder_queue_->Next()) {
    if (decoder_.Decode(&*task, &decoder_caller_)) continue;
    abandoned_beside_.push_back(*std::move(task));  // to free what it has is a call of the device
    break;
  }
  watch_->Leave(DeviceThread::kDecode);
  if (!decoder_caller_.given_up()) dispatcher_->Wake();
}

// What is the dispatcher's from now on it knows already where this thread was given up.
void DeviceWorker::NoteLoss() {
  lost_ = true;
  if (!caller_.given_up()) dispatcher_->LoseDevice(index_);
}

void DeviceWorker::Serve() {
  while (!lost_) {
    Work work = dispatcher_->NextWork(index_);
    lost_ = work.lost;
    for (JobId id : work.dropped) LetGo(id);
    for (ReturnedEngine& returned : work.returned) Destroy(std::move(returned));
    if (lost_) return;
    for (VacatedSlot& vacated : work.vacated) Vacate(std::move(vacated));
    if (work.stop) {
      const absl::Status stopping = absl::CancelledError("the scheduler is shutting down");
      for (const auto& removed : work.unended) GuardedVoid("the callback", [&] { removed(stopping); }).IgnoreError();
      for (const LoadTask& task : work.loads) GuardedVoid("the callback", [&] { task.loaded(stopping); }).IgnoreError();
      break;
    }
    Do(std::move(work));
  }
  // Stop has asked all requests to end, so that what was on the device has been dropped. What is on a device that is
  // lost goes with the worker: to free it is a call of that device.
}

void DeviceWorker::Do(Work work) {
  for (LoadTask& task : work.loads) {
    if (!lost_) Load(&task);
  }
  for (JobId id : work.decodes) {
    if (!lost_) Decode(id);
  }
  for (JobId id : work.preempted) {
    if (!lost_) Park(id);
  }
  if (!lost_) Start(std::move(work.starts));
  if (!lost_) Advance(work);
}

void DeviceWorker::Load(LoadTask* task) {
  const absl::StatusOr<EngineView> engine = LoadEngineFor(task);
  if (lost_) return;  // the dispatcher has told
  GuardedVoid("the callback", [&] { task->loaded(engine); }).IgnoreError();
}

absl::StatusOr<EngineView> DeviceWorker::LoadEngineFor(LoadTask* task) {
  for (const LoadedEngine& loaded : engines_) {
    if (loaded.engine != nullptr && loaded.model == task->model) {
      return absl::AlreadyExistsError(absl::StrCat("the model '", task->model, "' is on ", device_, " already"));
    }
  }
  if (const absl::Status loss = LossOf(task->engine); !loss.ok()) Lose(loss);
  FRESCO_RETURN_IF_ERROR(task->engine.status());
  std::unique_ptr<Engine> engine = *std::move(task->engine);
  const int64_t weight_bytes = CallStats(*engine).weight_bytes;
  weight_bytes_ += weight_bytes;
  const absl::Status ready = MakeReady(task->model, engine.get(), weight_bytes);
  if (lost_) {
    watch_->Keep(std::move(engine));  // to free it is a call of the device
    return absl::UnavailableError("the device is lost");
  }
  if (!ready.ok()) {
    weight_bytes_ -= weight_bytes;
    Destroy({std::move(engine), nullptr});
    return ready;
  }
  EngineSlot added = dispatcher_->AddEngine(index_, task->model, std::move(engine));
  if (added.slot == static_cast<int>(engines_.size())) engines_.emplace_back();
  engines_[added.slot] = {task->model, added.engine, weight_bytes};
  return EngineView(std::move(added.engine));
}

// The loader has warmed it up on its own thread; what libtorch has for each thread is made here
// (pipeline/engine/load.cc), and a device that does not answer is found before anybody hears that the model is ready.
absl::Status DeviceWorker::MakeReady(const std::string& model, Engine* engine, int64_t weight_bytes) {
  FRESCO_RETURN_IF_ERROR(Watched(DeviceCall::kWarmUp, weight_bytes, {}, [&] { return CallWarmUp(engine); }));
  if (!lost_ && options_.measure_at_load > absl::ZeroDuration()) Measure(model, engine);
  if (!lost_) AskMemory(engine);
  return absl::OkStatus();
}

void DeviceWorker::Destroy(ReturnedEngine returned) {
  if (!lost_) {
    Watched(DeviceCall::kUnload, 0, {}, [&] {
      returned.engine.reset();
      return absl::OkStatus();
    }).IgnoreError();
  }
  // Where the device was lost before, the engine goes with it.
  if (returned.engine != nullptr) watch_->Keep(std::move(returned.engine));
  if (lost_) return;
  TellMemory();
  if (returned.removed == nullptr) return;
  GuardedVoid("the callback", [&] { returned.removed(absl::OkStatus()); }).IgnoreError();
}

void DeviceWorker::Vacate(VacatedSlot vacated) {
  weight_bytes_ -= engines_[vacated.slot].weight_bytes;
  engines_[vacated.slot] = {};
}

void DeviceWorker::Lose(const absl::Status& loss) {
  lost_ = true;
  watch_->Lose(std::string(loss.message()));
  dispatcher_->LoseDevice(index_);
}

void DeviceWorker::Measure(const std::string& model, Engine* engine) {
  const auto watched = [&](DeviceCall kind, int64_t size, absl::FunctionRef<absl::Status()> call) {
    if (dispatcher_->IsWanted(index_)) return absl::CancelledError("others wait for the device");
    const absl::Status status = Watched(kind, size, {}, call, Company::kNone);
    return lost_ ? absl::AbortedError("the device is lost") : status;
  };
  const LoadMeasurement measurement = {options_.measure_at_load, KeptBytes(), watched};
  const auto measured = GuardedValue("the engine", [&] {
    return MeasureModel(model, engine, dispatcher_->CostsOf(index_), measurement, clock_, &measuring_);
  });
  if (lost_) return;
  measuring_.clear();
  TakePeakBytes(engine);  // which is no request's
  if (lost_) return;
  if (measured.ok()) dispatcher_->AddMeasured(index_, *measured);
}

void DeviceWorker::LetGo(JobId id) {
  const auto found = active_.find(id);
  if (found == active_.end()) return;
  ActiveImage& image = *found->second;
  image.job.reset();
  if (image.request != nullptr) ReleaseRequestOf(&image);
  active_.erase(found);
}

void DeviceWorker::Park(JobId id) {
  std::unique_ptr<ActiveImage>& image = active_.at(id);
  const absl::Status status = Watched(DeviceCall::kMove, image->load.state_bytes, {},
                                      [&] { return CallPark(EngineOf(*image), image->job.get()); });
  if (lost_) return;
  if (!status.ok()) {
    Fail(image.get(), status);
    LetGo(id);
    return;
  }
  observer_->OnPreempted(ModelOf(*image), device_);
  dispatcher_->Park(std::move(image));
  active_.erase(id);
}

// Without those that could not be started, or have to end by now: who left while others were prepared leaves before the
// step.
DeviceWorker::Batch DeviceWorker::BatchOf(const std::vector<JobId>& ids) {
  const absl::Time now = clock_->Now();
  Batch batch;
  for (JobId id : ids) {
    const auto found = active_.find(id);
    if (found == active_.end()) continue;
    if (found->second->request->ShouldEnd(now, options_.slow_reader_limit)) {
      LetGo(id);
    } else {
      batch.push_back(found->second.get());
    }
  }
  return batch;
}

// Those that must be alone on this device are; the dispatcher goes by one of the model's devices, and others may be of
// another type.
std::vector<DeviceWorker::Batch> DeviceWorker::PartsOf(const Batch& batch) {
  std::vector<Batch> parts;
  Batch together;
  for (ActiveImage* image : batch) {
    if (image->load.alone) {
      parts.push_back({image});
    } else {
      together.push_back(image);
    }
  }
  if (!together.empty()) parts.push_back(std::move(together));
  return parts;
}

void DeviceWorker::Advance(const Work& work) {
  const Batch batch = BatchOf(work.batch);
  if (batch.empty()) return;
  RecordPeakMemory(EngineOf(*batch.front()));  // of the preparations, so that the next is the step's
  if (lost_) return;
  dispatcher_->SetBatchSize(index_, static_cast<int>(batch.size()));
  std::vector<Forward> forwards;
  for (const Batch& part : PartsOf(batch)) {
    StepBatch(part, &forwards);
    if (lost_) return;
  }
  std::vector<JobId> stepped;
  for (const ActiveImage* image : batch) stepped.push_back(image->id);
  const std::vector<absl::Duration> remaining = dispatcher_->StepDone(index_, forwards, stepped);
  LearnStepTimes(&engines_[batch.front()->engine]);
  ++steps_;
  for (const Forward& forward : forwards) previews_.AddStep(forward.duration);
  if (work.snapshots) KeepSnapshots(batch);
  if (!lost_) ReportProgress(batch, remaining, work.others);
  if (lost_) return;
  for (const ActiveImage* image : batch) {
    if (image->job == nullptr) LetGo(image->id);
  }
}

void DeviceWorker::KeepSnapshots(const Batch& batch) {
  for (const ActiveImage* image : batch) {
    // The last step is made once more rather than kept: what is to be decoded alone has no place among what waits.
    if (image->job == nullptr || image->job->done()) continue;
    auto job = Watched(DeviceCall::kMove, image->load.state_bytes, {},
                       [&] { return CallSnapshot(EngineOf(*image), image->job.get()); });
    if (lost_) return;
    if (!job.ok()) continue;  // an earlier one, or none, does too
    auto kept = std::make_unique<ActiveImage>();
    kept->id = image->id;
    kept->index = image->index;
    kept->load = image->load;
    kept->job = *std::move(job);
    kept->batch_sizes = image->batch_sizes;
    kept->denoise = image->denoise;
    dispatcher_->Keep(std::move(kept));
  }
}

void DeviceWorker::StepBatch(absl::Span<ActiveImage* const> batch, std::vector<Forward>* forwards) {
  std::vector<ImageJob*> jobs;
  Forward forward;
  StepSize rows;
  for (ActiveImage* image : batch) {
    jobs.push_back(image->job.get());
    forward.images.push_back(image->id);
    rows.Add(RowsOf(image->load));
  }
  Engine* const engine = EngineOf(*batch.front());
  const SchedulingCore::StepForecast forecast = dispatcher_->Forecast(index_, forward.images);
  const EngineLoaders::Mark loads = loaders_->mark();
  StepProfiler::Step profiled(options_.step_profiler, ModelOf(*batch.front()), device_, rows.rows(), rows.tokens());
  const absl::Time begin = clock_->Now();
  const std::vector<absl::Status> statuses =
      Watched(DeviceCall::kStep, rows.tokens(), forecast.duration, [&] { return CallStep(engine, jobs); });
  if (lost_) return;
  const absl::Time end = clock_->Now();
  forward.duration = caller_.duration();
  const bool shared = caller_.shared();
  forward.out_of_memory = AllOutOfMemory(statuses);
  forward.activation_bytes = ActivationsOf(RecordPeakMemory(engine));
  if (lost_) return;
  // What that takes of the device's memory is no request's, nor the step's.
  if (profiled.End(AnyOf(statuses), forward.duration)) TakePeakBytes(engine);
  if (lost_) return;
  const int size = static_cast<int>(batch.size());
  // An engine that was loading meanwhile has taken memory too, and so has a picture that was decoded; but a step that
  // ran out of it beside that has been made once more without.
  const bool quiet = loads.quiet() && loaders_->mark() == loads;
  if (!quiet || shared) forward.activation_bytes = 0;
  if (quiet && size == 1 && forward.out_of_memory) dispatcher_->StepTooLarge(batch.front()->id);
  const bool any_ok = std::any_of(statuses.begin(), statuses.end(), [](const auto& status) { return status.ok(); });
  forward.timed_later = any_ok && AwaitTime(&engines_[batch.front()->engine], forward.images, forecast.duration);
  if (any_ok || forward.out_of_memory) forwards->push_back(forward);
  if (size > 1 && forward.out_of_memory) {
    observer_->OnBatchSplit(ModelOf(*batch.front()), device_);
    StepBatch(batch.first(size / 2), forwards);
    if (!lost_) StepBatch(batch.subspan(size / 2), forwards);
    return;
  }
  if (any_ok && !forward.timed_later) TellStep(ModelOf(*batch.front()), size, forecast.duration, forward.duration);
  for (int i = 0; i < size; ++i) {
    const absl::Status status = Explain(*batch[i], statuses[i], forecast.activation_bytes, forward.activation_bytes);
    if (lost_) return;
    // Also of one that has failed: the device was busy with it.
    batch[i]->request->AddDeviceTime((end - begin) * (RowsOf(batch[i]->load).work() / rows.work()));
    AddStep(batch[i], status, begin, end, size);
  }
}

bool DeviceWorker::AwaitTime(LoadedEngine* loaded, const std::vector<JobId>& images, absl::Duration predicted) {
  constexpr size_t kRemembered = 64;  // each is known a step later
  const std::optional<uint64_t> step = loaded->engine->LastStep();
  if (!step.has_value()) return false;
  loaded->untimed.push_back({*step, dispatcher_->SizeOf(index_, images), static_cast<int>(images.size()), predicted});
  if (loaded->untimed.size() > kRemembered) loaded->untimed.pop_front();
  return true;
}

void DeviceWorker::LearnStepTimes(LoadedEngine* loaded) {
  if (loaded->untimed.empty()) return;
  for (const StepTime& time : CallTakeStepTimes(loaded->engine.get(), /*wait=*/false)) {
    const auto found = std::find_if(loaded->untimed.begin(), loaded->untimed.end(),
                                    [&](const auto& untimed) { return untimed.step == time.step; });
    if (found == loaded->untimed.end()) continue;
    const absl::Duration took = absl::Seconds(time.seconds);
    TellStep(loaded->model, found->images, found->predicted, took);
    dispatcher_->StepTimed(index_, found->size, took);
    loaded->untimed.erase(found);
  }
}

void DeviceWorker::TellStep(const std::string& model, int images, absl::Duration predicted, absl::Duration took) {
  observer_->OnStep(model, device_, images, took);
  if (predicted > absl::ZeroDuration()) observer_->OnStepPredicted(model, device_, predicted, took);
}

void DeviceWorker::AddStep(ActiveImage* image, const absl::Status& status, absl::Time begin, absl::Time end,
                           int batch_size) {
  if (!status.ok()) {
    Fail(image, status);
    return;
  }
  image->denoise += end - begin;
  image->batch_sizes.Add(batch_size);
  image->request->AddStep(begin, end, batch_size);
}

void DeviceWorker::AskMemory(Engine* engine) {
  const auto ask = [&] { return absl::StatusOr<DeviceMemory>(CallMemoryOfDevice(engine)); };
  const DeviceMemory memory = Watched(DeviceCall::kAsk, 0, {}, ask).value_or(DeviceMemory());
  if (lost_) return;
  device_bytes_ = memory.total_bytes;
  if (device_bytes_ > 0) observer_->OnDeviceMemory(device_, device_bytes_);
  TellMemory();
}

// Weights that are more than all there is: whoever counts one of them counts something else, and nothing is known.
void DeviceWorker::TellMemory() {
  dispatcher_->SetMemory(index_, std::max<int64_t>(0, device_bytes_ - weight_bytes_));
}

int64_t DeviceWorker::TakePeakBytes(Engine* engine) {
  const int64_t peak = peaks_.Take(&caller_, engine);
  if (!caller_.ours()) NoteLoss();
  return peak;
}

int64_t DeviceWorker::RecordPeakMemory(Engine* engine) {
  const int64_t peak = TakePeakBytes(engine);
  if (lost_) return 0;
  for (auto& [id, image] : active_) {
    if (image->request != nullptr) image->request->AddPeakMemory(peak);
  }
  return peak;
}

int64_t DeviceWorker::ActivationsOf(int64_t peak_bytes) const {
  return std::max<int64_t>(0, peak_bytes - KeptBytes());
}

int64_t DeviceWorker::KeptBytes() const {
  int64_t kept = weight_bytes_;
  for (const auto& [id, image] : active_) kept += image->load.state_bytes;
  return kept;
}

MemoryReport DeviceWorker::ReportOf(const ActiveImage& image) const {
  MemoryReport report;
  report.device = device_;
  for (const LoadedEngine& loaded : engines_) {
    if (loaded.engine == nullptr) continue;
    report.models.push_back({loaded.model, loaded.engine->info().precision, loaded.weight_bytes});
  }
  for (const auto& [id, other] : active_) {
    if (id == image.id || other == nullptr || other->job == nullptr) continue;
    ++report.other_images;
    report.other_state_bytes += other->load.state_bytes;
  }
  const ImageSpec& spec = image.request->request().images[image.index];
  report.width = spec.width;
  report.height = spec.height;
  report.state_bytes = image.load.state_bytes;
  report.decoding = image.job != nullptr && image.job->done();
  return report;
}

absl::Status DeviceWorker::Explain(const ActiveImage& image, const absl::Status& status, int64_t predicted,
                                   int64_t seen) {
  if (!absl::IsResourceExhausted(status)) return status;
  MemoryReport report = ReportOf(image);
  report.predicted_activation_bytes = predicted;
  report.seen_activation_bytes = seen;
  const absl::Status explained = ExplainOutOfMemory(status, std::move(report), EngineOf(image), &caller_);
  if (!caller_.ours()) NoteLoss();
  return explained;
}

void DeviceWorker::Fail(ActiveImage* image, const absl::Status& status) {
  image->job.reset();
  image->request->AskToEnd(Annotate(status, absl::StrCat("image ", image->index)));
  ReleaseRequestOf(image);
}

void DeviceWorker::ReleaseRequestOf(ActiveImage* image) {
  dispatcher_->Remove(image->id);
  dispatcher_->Release(std::exchange(image->request, nullptr));
}

}  // namespace fresco
