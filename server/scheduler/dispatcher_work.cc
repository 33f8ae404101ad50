// The devices' side of the dispatcher: what a worker is to do next. The callers' side is dispatcher.cc.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "server/scheduler/dispatcher.h"
#include "server/scheduler/engine_calls.h"

namespace fresco {
namespace {

constexpr size_t kMaxWorkers = 64;  // the bits of DevicesOf
// With a device's decoder: the one that it decodes, and the next, so that it need not wait for the step that runs.
constexpr int kWithDecoder = 2;
// Of those that wait so many are asked at one boundary whether they should end.
constexpr size_t kAskedAtOnce = 64;

bool IsIdle(const Work& work) {
  return work.batch.empty() && work.decodes.empty() && work.dropped.empty() && work.loads.empty() &&
         work.preempted.empty() && work.returned.empty() && work.vacated.empty() && !work.stop && !work.lost;
}

}  // namespace

int Dispatcher::AddWorker(const std::string& device, std::shared_ptr<DeviceWatch> watch,
                          std::shared_ptr<DecodeQueue> decoder) {
  MutexLock lock(&mutex_);
  if (workers_.size() == kMaxWorkers) {
    std::fprintf(stderr, "more than %zu devices: the configuration should have refused them\n", kMaxWorkers);
    std::abort();
  }
  const int index = static_cast<int>(workers_.size());
  Worker& worker = workers_.emplace_back();
  worker.device = device;
  worker.type = TypeOf(device);
  worker.cost_type = CostTypeOf(device);
  worker.watch = std::move(watch);
  worker.engine_return = std::make_shared<EngineReturn>(
      [this, index](std::unique_ptr<Engine> engine) { Retire(index, std::move(engine)); });
  DeviceLimits limits;
  limits.max_batch = options_.max_batch;
  limits.max_resident = options_.max_resident;
  limits.state_bytes = options_.resident_bytes;
  limits.decoding = decoder == nullptr ? 0 : kWithDecoder;
  worker.decoder = std::move(decoder);
  limits.type = worker.type;
  limits.cost_type = worker.cost_type;
  return core_->AddDevice(limits);
}

absl::Status Dispatcher::CheckDevice(int worker) const {
  MutexLock lock(&mutex_);
  return LossOf(workers_.at(worker));
}

absl::Status Dispatcher::AddLoad(int worker, LoadTask task) {
  MutexLock lock(&mutex_);
  Worker& own = workers_.at(worker);
  if (absl::Status lost = LossOf(own); !lost.ok()) {
    if (task.engine.ok()) own.watch->Keep(*std::move(task.engine));
    return lost;
  }
  if (stopping_) return absl::CancelledError("the scheduler is shutting down");
  own.loads.push_back(std::move(task));
  changed_.NotifyAll();
  return absl::OkStatus();
}

EngineSlot Dispatcher::AddEngine(int worker, const std::string& model, std::unique_ptr<Engine> engine) {
  MutexLock lock(&mutex_);
  Worker& own = workers_.at(worker);
  const auto free = std::find_if(own.engines.begin(), own.engines.end(),
                                 [](const LoadedEngine& loaded) { return loaded.engine == nullptr; });
  const auto slot = free - own.engines.begin();
  if (free == own.engines.end()) own.engines.emplace_back();
  EngineSlot added{static_cast<int>(slot), own.engine_return->Share(std::move(engine))};
  own.engines[slot] = {model, added.engine};
  core_->SetLoaded(worker, core_->Model(model), true);
  LeavePositionsToTimer();  // who shares a device with whom has changed
  return added;
}

bool Dispatcher::IsWanted(int worker) const {
  MutexLock lock(&mutex_);
  if (stopping_) return true;
  const Worker& own = workers_.at(worker);
  return std::any_of(images_.begin(), images_.end(), [&](const auto& entry) {
    const Image& image = entry.second;
    return image.worker == worker || (image.waits && EngineFor(own, image.request->request().model) >= 0);
  });
}

void Dispatcher::SetBatchSize(int worker, int images) {
  MutexLock lock(&mutex_);
  workers_.at(worker).batch_size = images;
}

void Dispatcher::AddEncoding(int worker, int change) {
  MutexLock lock(&mutex_);
  workers_.at(worker).encoding += change;
  changed_.NotifyAll();
}

Work Dispatcher::NextWork(int worker) {
  Work work;
  Followups followups;
  Handed through;  // goes outside the lock
  {
    MutexLock lock(&mutex_);
    through = std::exchange(workers_.at(worker).handed, {});
    while (true) {
      const absl::Time now = clock_->Now();
      work.lost = TakeOverIfLost(worker, now, &followups);
      if (work.lost) break;
      DropHopeless(worker, now, &work, &followups);
      DropEnding(now, &followups);
      DropResidents(worker, now, &work, &followups);
      work.stop = stopping_;
      TakeLoads(worker, &work);
      AdvanceRemovals(worker, &work);
      if (std::exchange(may_be_stranded_, false)) BeginStrandedAnew(now, &followups.dropped);
      HandOut(worker, work);
      // What a load brings is decided about when it is there.
      if (!work.stop && work.loads.empty()) Decide(worker, now, &work, &followups);
      if (!IsIdle(work) || !followups.released.empty() || !followups.dropped.empty()) break;
      clock_->WaitUntil(&changed_, &mutex_, absl::InfiniteFuture());
    }
    if (!work.starts.empty() || !followups.released.empty()) LeavePositionsToTimer();
  }
  Follow(std::move(followups));
  return work;
}

// One at a time: between two, images are decided about.
void Dispatcher::TakeLoads(int worker, Work* work) {
  std::deque<LoadTask>& loads = workers_.at(worker).loads;
  while (!loads.empty() && (work->stop || work->loads.empty())) {
    work->loads.push_back(std::move(loads.front()));
    loads.pop_front();
  }
}

// What the worker is to tell is told by the dispatcher where the device is lost before.
void Dispatcher::HandOut(int worker, const Work& work) {
  Handed& handed = workers_.at(worker).handed;
  for (const LoadTask& task : work.loads) handed.loads.push_back(task.loaded);
  for (const ReturnedEngine& returned : work.returned) handed.removals.push_back(returned.removed);
  handed.removals.insert(handed.removals.end(), work.unended.begin(), work.unended.end());
}

void Dispatcher::DropHopeless(int worker, absl::Time now, Work* work, Followups* followups) {
  std::vector<int64_t> ending;
  for (JobId id : core_->DropHopeless(worker, now)) {
    WakeLeaving();
    Image image = std::move(images_.extract(id).mapped());
    if (image.kept != nullptr) followups->dropped.push_back(std::move(image.kept));
    image.request->AskToEnd(absl::DeadlineExceededError("the request cannot be done by its deadline any more"));
    ending.push_back(image.request->sequence());
    if (!image.waits) {
      work->dropped.push_back(id);
      continue;
    }
    std::erase(queue_.at(image.request->sequence()).images, id);
    if (image.parked != nullptr) followups->dropped.push_back(std::move(image.parked));
    followups->released.push_back(std::move(image.request));
  }
  for (int64_t sequence : ending) DropIfEnding(sequence, now, followups);
}

void Dispatcher::DropEnding(absl::Time now, Followups* followups) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    DropIfEnding(deadlines_.begin()->second, now, followups);
  }
  auto entry = queue_.lower_bound(asked_);
  for (size_t asked = std::min(queue_.size(), kAskedAtOnce); asked > 0 && !queue_.empty(); --asked) {
    if (entry == queue_.end()) entry = queue_.begin();
    entry = DropIfEnding(entry, now, followups);
  }
  asked_ = entry == queue_.end() ? 0 : entry->first;
}

void Dispatcher::DropAllEnding(absl::Time now, Followups* followups) {
  for (auto entry = queue_.begin(); entry != queue_.end();) entry = DropIfEnding(entry, now, followups);
}

void Dispatcher::DropIfEnding(int64_t sequence, absl::Time now, Followups* followups) {
  if (const auto entry = queue_.find(sequence); entry != queue_.end()) DropIfEnding(entry, now, followups);
}

Dispatcher::EntryPlace Dispatcher::DropIfEnding(EntryPlace entry, absl::Time now, Followups* followups) {
  const RequestPtr& request = entry->second.request;
  if (!request->ShouldEnd(now, options_.slow_reader_limit)) return std::next(entry);
  if (!request->started()) CountWaiting(request->request(), -1);
  for (JobId id : entry->second.images) {
    core_->Remove(id);
    Image image = std::move(images_.extract(id).mapped());
    if (image.parked != nullptr) followups->dropped.push_back(std::move(image.parked));
    if (image.kept != nullptr) followups->dropped.push_back(std::move(image.kept));
    followups->released.push_back(std::move(image.request));
  }
  WakeLeaving();
  return EraseEntry(entry);
}

Dispatcher::Entry& Dispatcher::QueueEntry(const RequestPtr& request) {
  Entry& entry = queue_[request->sequence()];
  entry.request = request;
  const absl::Time deadline = request->deadline();
  if (deadline < absl::InfiniteFuture()) deadlines_.emplace(deadline, request->sequence());
  return entry;
}

Dispatcher::EntryPlace Dispatcher::EraseEntry(EntryPlace entry) {
  deadlines_.erase({entry->second.request->deadline(), entry->first});
  return queue_.erase(entry);
}

void Dispatcher::DropResidents(int worker, absl::Time now, Work* work, Followups* followups) {
  std::vector<JobId> held = core_->index().device(worker).resident;
  for (const FinishedImage& image : core_->finished(worker)) held.push_back(image.id);
  for (JobId id : held) {
    Image& image = images_.at(id);
    if (!image.request->ShouldEnd(now, options_.slow_reader_limit)) continue;
    if (image.kept != nullptr) followups->dropped.push_back(std::move(image.kept));
    core_->Remove(id);
    images_.erase(id);
    work->dropped.push_back(id);
  }
}

void Dispatcher::Decide(int worker, absl::Time now, Work* work, Followups* followups) {
  // The encoder is behind: finished pictures would pile up.
  if (workers_.at(worker).encoding >= 2 * options_.max_batch) return;
  Decision decision = core_->Decide(worker, now, [&](absl::Span<const JobId> images) FRESCO_NO_THREAD_SAFETY_ANALYSIS {
    return TextsToEncode(worker, images);
  });
  work->decodes = std::move(decision.decode);
  for (JobId id : decision.start) work->starts.push_back(Start(worker, id, now, followups));
  work->preempted.insert(work->preempted.end(), decision.preempt.begin(), decision.preempt.end());
  work->batch = std::move(decision.batch);
  if (work->batch.empty()) return;
  work->others = OthersWait(worker, *work);
  const uint64_t others = DevicesOf(images_.at(work->batch.front()).request->request().model);
  work->snapshots = (others & ~(uint64_t{1} << worker)) != 0;
}

// For the device, beside the images of the step and, of those that are done, of the first one's request.
bool Dispatcher::OthersWait(int worker, const Work& work) const {
  if (core_->index().waiting() > 0) return true;
  if (core_->index().device(worker).resident.size() > work.batch.size()) return true;
  const RequestPtr& request = images_.at(work.batch.front()).request;
  const std::vector<FinishedImage>& finished = core_->finished(worker);
  return std::any_of(finished.begin(), finished.end(), [&](const FinishedImage& image) FRESCO_REQUIRES(mutex_) {
    return images_.at(image.id).request != request;
  });
}

// Of one model.
std::vector<int> Dispatcher::TextsToEncode(int worker, absl::Span<const JobId> images) const {
  std::vector<const ImageSpec*> specs;
  const Worker& own = workers_[worker];
  int engine = -1;
  for (JobId id : images) {
    const Image& image = images_.at(id);
    engine = EngineFor(own, image.request->request().model);
    specs.push_back(&image.request->request().images[image.index]);
  }
  return engine < 0 ? std::vector<int>(images.size()) : CallTextsToEncode(*own.engines[engine].engine, specs);
}

StartOrder Dispatcher::Start(int worker, JobId id, absl::Time now, Followups* followups) {
  Image& image = images_.at(id);
  image.waits = false;
  image.worker = worker;
  if (image.request->request().images[image.index].deterministic) image.type = workers_[worker].type;
  const auto entry = queue_.find(image.request->sequence());
  if (!image.request->started()) BeginRequest(entry->second, worker, now, followups);
  std::erase(entry->second.images, id);
  if (entry->second.images.empty()) EraseEntry(entry);
  const int engine = EngineFor(workers_[worker], image.request->request().model);
  return {id, image.request, image.index, engine, std::move(image.parked)};
}

void Dispatcher::BeginRequest(const Entry& entry, int worker, absl::Time now, Followups* followups) {
  const RequestPtr& request = entry.request;
  const GenerationRequest& asked = request->request();
  request->AddStart(now);
  request->output()->Add(StartedEvent{workers_[worker].device});
  followups->told.push_back(request);
  CountWaiting(asked, -1);
  CountRunning(1);
  notices_.Add([this, model = asked.model, priority = asked.priority, wait = now - request->received(),
                predicted = entry.predicted] {
    observer_->OnQueueWait(model, std::string(PriorityName(priority)), wait, predicted);
  });
}

std::vector<absl::Duration> Dispatcher::StepDone(int worker, const std::vector<Forward>& forwards,
                                                 const std::vector<JobId>& images) {
  MutexLock lock(&mutex_);
  workers_.at(worker).batch_size = 0;
  // An image that is done stays known until its picture is: its device may be lost before.
  core_->StepDone(worker, forwards, SchedulingCore::DoneJobs::kKeep);
  UpdateWaits(clock_->Now());
  absl::Duration step;
  for (const Forward& forward : forwards) {
    if (!forward.out_of_memory) step = std::max(step, core_->Forecast(worker, forward.images).duration);
  }
  std::vector<absl::Duration> remaining;
  for (JobId id : images) {
    remaining.push_back(images_.contains(id) ? core_->Remaining(id, step) : absl::ZeroDuration());
  }
  return remaining;
}

StepSize Dispatcher::SizeOf(int worker, const std::vector<JobId>& images) const {
  MutexLock lock(&mutex_);
  return core_->SizeOf(worker, images);
}

void Dispatcher::StepTimed(int worker, const StepSize& size, absl::Duration duration) {
  MutexLock lock(&mutex_);
  core_->StepTimed(worker, size, duration);
}

void Dispatcher::AddMeasured(int worker, const std::vector<MeasuredStep>& measured) {
  MutexLock lock(&mutex_);
  const CostTypeId type = workers_.at(worker).cost_type;
  // Another device may have learned of the same steps meanwhile: beside those. Steps that cannot be tell nothing.
  for (const MeasuredStep& step : measured) {
    const CurveId curve = costs_.Curve(step.model, step.tokens);
    if (!costs_.MutableOf(type)->Add(step).ok()) continue;
    costs_.MutableOf(type)->RecordMemory(curve, step.rows, step.activation_bytes);
  }
}

CostModel Dispatcher::CostsOf(int worker) const {
  MutexLock lock(&mutex_);
  return costs_.Of(workers_.at(worker).cost_type);
}

void Dispatcher::TextsDone(int worker, const std::string& model, int text_tokens, int texts, absl::Duration duration) {
  MutexLock lock(&mutex_);
  core_->RecordTexts(worker, core_->Model(model), text_tokens, texts, duration);
}

void Dispatcher::DecodeDone(int worker, const std::string& model, int picture_tokens, absl::Duration duration,
                            int64_t activation_bytes) {
  MutexLock lock(&mutex_);
  core_->RecordDecode(worker, core_->Model(model), picture_tokens, duration, activation_bytes);
}

void Dispatcher::SetMemory(int worker, int64_t bytes) {
  MutexLock lock(&mutex_);
  core_->SetMemory(worker, bytes > 0 ? bytes : kNoMemoryLimit);
}

void Dispatcher::StepTooLarge(JobId image) {
  MutexLock lock(&mutex_);
  if (images_.contains(image)) core_->StepTooLarge(image, clock_->Now());
}

void Dispatcher::DecodeTooLarge(int worker, const std::string& model, int picture_tokens) {
  MutexLock lock(&mutex_);
  core_->DecodeTooLarge(worker, core_->Model(model), picture_tokens, clock_->Now());
}

void Dispatcher::Park(std::unique_ptr<ActiveImage> image) {
  Dropped dropped;  // goes outside the lock
  MutexLock lock(&mutex_);
  const JobId id = image->id;
  const absl::Time now = clock_->Now();
  Image& own = images_.at(id);
  own.waits = true;
  own.worker = -1;
  core_->Parked(id, now);
  QueueEntry(own.request).images.push_back(id);
  own.parked = std::move(image);
  if (own.kept != nullptr) dropped.push_back(std::move(own.kept));  // which is the same
  if (IsStranded(own)) BeginAnew(id, &own, now, &dropped);
  changed_.NotifyAll();
}

void Dispatcher::Remove(JobId id) {
  std::unique_ptr<ActiveImage> kept;  // goes outside the lock
  MutexLock lock(&mutex_);
  if (const auto found = images_.find(id); found != images_.end()) {
    kept = std::move(found->second.kept);
    images_.erase(found);
    core_->Remove(id);
  }
  WakeLeaving();
}

bool Dispatcher::TakeFinished(int worker, JobId image) {
  std::unique_ptr<ActiveImage> kept;  // goes outside the lock
  MutexLock lock(&mutex_);
  if (!workers_.at(worker).lost.empty()) return false;
  if (const auto found = images_.find(image); found != images_.end()) {
    kept = std::move(found->second.kept);
    images_.erase(found);
    core_->Remove(image);
  }
  changed_.NotifyAll();  // the decoder has room for another, and a model that waits for this may go
  return true;
}

int Dispatcher::EngineFor(const Worker& worker, const std::string& model) {
  for (size_t i = 0; i < worker.engines.size(); ++i) {
    if (worker.engines[i].engine != nullptr && worker.engines[i].model == model) return static_cast<int>(i);
  }
  return -1;
}

uint64_t Dispatcher::DevicesOf(const std::string& model) const {
  uint64_t devices = 0;
  for (size_t i = 0; i < workers_.size(); ++i) {
    const int slot = EngineFor(workers_[i], model);
    if (slot >= 0 && !workers_[i].engines[slot].leaving) devices |= uint64_t{1} << i;
  }
  return devices;
}

}  // namespace fresco
