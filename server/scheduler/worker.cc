#include "server/scheduler/worker.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "pipeline/base/status.h"
#include "pipeline/engine/parameters_text.h"
#include "server/scheduler/engine_calls.h"

namespace fresco {
namespace {

// Progress events of one image that wait for their previews at a time; further previews are left out, since they hold
// pixels.
constexpr int kMaxHeldPreviews = 32;

bool AllOutOfMemory(const std::vector<absl::Status>& statuses) {
  return std::all_of(statuses.begin(), statuses.end(),
                     [](const absl::Status& s) { return absl::IsResourceExhausted(s); });
}

}  // namespace

DeviceWorker::DeviceWorker(int index, std::string device, const SchedulerOptions* options, Clock* clock,
                           SchedulerObserver* observer, Dispatcher* dispatcher, PictureWriter* writer)
    : index_(index),
      device_(std::move(device)),
      options_(*options),
      clock_(clock),
      observer_(observer),
      dispatcher_(dispatcher),
      writer_(writer) {}

void DeviceWorker::Run() {
  while (true) {
    DropEnding();
    Work work = dispatcher_->NextWork(index_, Running());
    if (work.stop) {
      for (LoadTask& task : work.loads) task.loaded(absl::CancelledError("the scheduler is shutting down"));
      break;
    }
    for (const LoadTask& task : work.loads) Load(task);
    for (const StartOrder& order : work.starts) Start(order);
    DropEnding();  // who left while others were prepared leaves before the step
    Advance();
  }
  // Stop has asked all of them to end.
  DropEnding();
}

void DeviceWorker::Load(const LoadTask& task) {
  const absl::StatusOr<const Engine*> engine = LoadEngineFor(task);
  task.loaded(engine);
}

absl::StatusOr<const Engine*> DeviceWorker::LoadEngineFor(const LoadTask& task) {
  for (const LoadedEngine& loaded : engines_) {
    if (loaded.model == task.model) {
      return absl::AlreadyExistsError(absl::StrCat("the model '", task.model, "' is on ", device_, " already"));
    }
  }
  FRESCO_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, CallLoader(task.loader));
  const Engine* loaded = engine.get();
  engines_.push_back({task.model, std::move(engine)});
  dispatcher_->AddEngine(index_, task.model, loaded);
  return loaded;
}

void DeviceWorker::DropEnding() {
  const absl::Time now = clock_->Now();
  for (auto& image : active_) {
    if (!image->request->ShouldEnd(now, options_.slow_reader_limit)) continue;
    image->job.reset();
    dispatcher_->Release(image->request);
  }
  RemoveDone();
}

void DeviceWorker::RemoveDone() {
  std::erase_if(active_, [](const auto& image) { return image->job == nullptr; });
}

void DeviceWorker::Start(const StartOrder& order) {
  auto image = std::make_unique<ActiveImage>();
  image->request = order.request;
  image->index = order.image_index;
  image->engine = order.engine;
  image->last_step = steps_;
  const ImageSpec& spec = order.request->request().images[order.image_index];
  if (order.request->ending()) {
    dispatcher_->Release(order.request);
    return;
  }
  const absl::Time begin = clock_->Now();
  auto job = CallPrepare(EngineOf(*image), spec);
  const absl::Duration duration = clock_->Now() - begin;
  if (!job.ok()) {
    Fail(image.get(), job.status());
    return;
  }
  image->job = *std::move(job);
  image->batch_key = EngineOf(*image)->BatchKey(spec);
  order.request->AddPrepare(duration, image->job->warnings());
  observer_->OnStage(ModelOf(*image), "prepare", duration);
  active_.push_back(std::move(image));
}

void DeviceWorker::Advance() {
  const PolicyView view{clock_->Now(), {}, Running()};
  std::vector<ActiveImage*> batch;
  for (int chosen : NextBatch(view, {options_.max_batch})) batch.push_back(active_.at(chosen).get());
  if (batch.empty()) return;
  ++steps_;
  dispatcher_->SetBatchSize(index_, static_cast<int>(batch.size()));
  StepBatch(batch);
  dispatcher_->SetBatchSize(index_, 0);
  RecordPeakMemory(EngineOf(*batch.front()));
  // Everybody's progress before anybody's picture: decoding takes a while.
  for (ActiveImage* image : batch) {
    if (image->job != nullptr && !image->request->ending()) ReportProgress(image);
  }
  for (ActiveImage* image : batch) {
    if (image->job != nullptr && image->job->done() && !image->request->ending()) Finish(image);
  }
  RemoveDone();
}

void DeviceWorker::StepBatch(absl::Span<ActiveImage* const> batch) {
  std::vector<ImageJob*> jobs;
  for (ActiveImage* image : batch) jobs.push_back(image->job.get());
  const absl::Time begin = clock_->Now();
  const std::vector<absl::Status> statuses = CallStep(EngineOf(*batch.front()), jobs);
  const absl::Time end = clock_->Now();
  const int size = static_cast<int>(batch.size());
  if (size > 1 && AllOutOfMemory(statuses)) {
    StepBatch(batch.first(size / 2));
    StepBatch(batch.subspan(size / 2));
    return;
  }
  if (std::any_of(statuses.begin(), statuses.end(), [](const absl::Status& status) { return status.ok(); })) {
    observer_->OnStep(ModelOf(*batch.front()), device_, size, end - begin);
    dispatcher_->step_times()->Record(EngineOf(*batch.front()), batch.front()->batch_key, end - begin);
  }
  for (int i = 0; i < size; ++i) AddStep(batch[i], statuses[i], begin, end, size);
}

void DeviceWorker::AddStep(ActiveImage* image, const absl::Status& status, absl::Time begin, absl::Time end,
                           int batch_size) {
  if (!status.ok()) {
    Fail(image, status);
    return;
  }
  image->last_step = steps_;
  image->denoise += end - begin;
  image->batch_sizes.Add(batch_size);
  image->request->AddStep(begin, end, batch_size);
}

void DeviceWorker::ReportProgress(ActiveImage* image) {
  ProgressEvent event;
  event.image_index = image->index;
  event.step = image->job->step();
  event.total_steps = image->job->spec().steps;
  event.remaining = Remaining(*image);
  if (WantsPreview(*image) && SendPreview(image, event)) return;
  image->request->output()->AddForImage(image->index, std::move(event));
  image->request->output()->Deliver();
}

bool DeviceWorker::WantsPreview(const ActiveImage& image) const {
  const int every = image.request->request().preview_every;
  // A reader that is behind would not get it anyway.
  return every > 0 && image.job->step() % every == 0 && !image.request->channel()->full_since() &&
         image.request->output()->held(image.index) < kMaxHeldPreviews;
}

// False: there is none, and the progress goes without.
bool DeviceWorker::SendPreview(ActiveImage* image, const ProgressEvent& event) {
  const absl::Time begin = clock_->Now();
  auto preview = CallPreview(EngineOf(*image), *image->job, image->request->request().preview_max_side);
  if (absl::IsResourceExhausted(preview.status())) return false;
  if (!preview.ok()) {
    Fail(image, preview.status());
    return true;
  }
  observer_->OnStage(ModelOf(*image), "preview", clock_->Now() - begin);
  writer_->WritePreview(image->request, event, *std::move(preview));
  return true;
}

void DeviceWorker::Finish(ActiveImage* image) {
  const std::string& model = ModelOf(*image);
  observer_->OnStage(model, "denoise", image->denoise);
  const absl::Time begin = clock_->Now();
  auto picture = CallFinish(EngineOf(*image), image->job.get());
  const absl::Duration duration = clock_->Now() - begin;
  if (!picture.ok()) {
    Fail(image, picture.status());
    return;
  }
  ImageProvenance provenance = ProvenanceOf(*image);
  image->job.reset();
  observer_->OnStage(model, "decode", duration);
  image->request->AddDecode(duration);
  RecordPeakMemory(EngineOf(*image));
  writer_->WriteImage({image->request, image->index, index_, std::move(provenance), *std::move(picture)});
}

void DeviceWorker::RecordPeakMemory(Engine* engine) {
  const int64_t peak = engine->TakePeakBytes();
  for (auto& image : active_) image->request->AddPeakMemory(peak);
}

void DeviceWorker::Fail(ActiveImage* image, const absl::Status& status) {
  image->job.reset();
  image->request->AskToEnd(Annotate(status, absl::StrCat("image ", image->index)));
  dispatcher_->Release(image->request);
}

std::vector<RunningImage> DeviceWorker::Running() const {
  std::vector<RunningImage> running;
  for (const auto& image : active_) {
    const GenerationRequest& request = image->request->request();
    running.push_back({image->engine, image->batch_key, static_cast<int>(request.priority), image->request->sequence(),
                       image->job->spec().steps - image->job->step(), image->last_step, request.deadline});
  }
  return running;
}

absl::Duration DeviceWorker::Remaining(const ActiveImage& image) const {
  std::set<std::pair<int, std::string_view>> groups;  // which take turns
  for (const auto& other : active_) {
    if (other->job != nullptr) groups.emplace(other->engine, other->batch_key);
  }
  const int steps = (image.job->spec().steps - image.job->step()) * static_cast<int>(groups.size());
  return steps * dispatcher_->step_times()->Get(EngineOf(image), image.batch_key);
}

ImageProvenance DeviceWorker::ProvenanceOf(const ActiveImage& image) const {
  const ModelInfo& info = EngineOf(image)->info();
  ImageProvenance provenance;
  provenance.model = ModelOf(image);
  provenance.weights_digest = info.weights_digest;
  provenance.precision = info.precision;
  provenance.device = device_;
  provenance.software = options_.software;
  provenance.sampler = kSampler;
  provenance.spec = image.job->spec();
  provenance.batch_size_min = image.batch_sizes.min;
  provenance.batch_size_max = image.batch_sizes.max;
  return provenance;
}

}  // namespace fresco
