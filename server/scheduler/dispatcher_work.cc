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
  worker.watch = std::move(watch);
  worker.engine_return = std::make_shared<EngineReturn>(
      [this, index](std::unique_ptr<Engine> engine) { Retire(index, std::move(engine)); });
  DeviceLimits limits;
  limits.max_batch = options_.max_batch;
  limits.max_resident = options_.max_resident;
  limits.state_bytes = options_.resident_bytes;
  limits.decoding = decoder == nullptr ? 0 : kWithDecoder;
  worker.decoder = std::move(decoder);
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
      DropResidents(worker, now, &work);
      work.stop = stopping_;
      TakeLoads(worker, &work);
      AdvanceRemovals(worker, &work);
      HandOut(worker, work);
      // What a load brings is decided about when it is there.
      if (!work.stop && work.loads.empty()) Decide(worker, now, &work, &followups);
      if (!IsIdle(work) || !followups.released.empty()) break;
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
  for (JobId id : core_->DropHopeless(worker, now)) {
    WakeLeaving();
    Image image = std::move(images_.extract(id).mapped());
    image.request->AskToEnd(absl::DeadlineExceededError("the request cannot be done by its deadline any more"));
    if (!image.waits) {
      work->dropped.push_back(id);
      continue;
    }
    // DropEnding does the rest of its request.
    std::erase(queue_.at(image.request->sequence()).images, id);
    if (image.parked != nullptr) followups->dropped.push_back(std::move(image.parked));
    followups->released.push_back(std::move(image.request));
  }
}

void Dispatcher::DropEnding(absl::Time now, Followups* followups) {
  for (auto entry = queue_.begin(); entry != queue_.end();) {
    const RequestPtr& request = entry->second.request;
    if (!request->ShouldEnd(now, options_.slow_reader_limit)) {
      ++entry;
      continue;
    }
    if (!request->started()) CountWaiting(request->request(), -1);
    for (JobId id : entry->second.images) {
      core_->Remove(id);
      Image image = std::move(images_.extract(id).mapped());
      if (image.parked != nullptr) followups->dropped.push_back(std::move(image.parked));
      followups->released.push_back(std::move(image.request));
    }
    entry = queue_.erase(entry);
    WakeLeaving();
  }
}

void Dispatcher::DropResidents(int worker, absl::Time now, Work* work) {
  std::vector<JobId> held = core_->index().device(worker).resident;
  for (const FinishedImage& image : core_->finished(worker)) held.push_back(image.id);
  for (JobId id : held) {
    if (!images_.at(id).request->ShouldEnd(now, options_.slow_reader_limit)) continue;
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
int Dispatcher::TextsToEncode(int worker, absl::Span<const JobId> images) const {
  std::vector<const ImageSpec*> specs;
  const Worker& own = workers_[worker];
  int engine = -1;
  for (JobId id : images) {
    const Image& image = images_.at(id);
    engine = EngineFor(own, image.request->request().model);
    specs.push_back(&image.request->request().images[image.index]);
  }
  return engine < 0 ? 0 : CallTextsToEncode(*own.engines[engine].engine, specs);
}

StartOrder Dispatcher::Start(int worker, JobId id, absl::Time now, Followups* followups) {
  Image& image = images_.at(id);
  image.waits = false;
  image.worker = worker;
  const auto entry = queue_.find(image.request->sequence());
  if (!image.request->started()) BeginRequest(entry->second, worker, now, followups);
  std::erase(entry->second.images, id);
  if (entry->second.images.empty()) queue_.erase(entry);
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
  int rows = 0;
  for (const Forward& forward : forwards) rows = std::max(rows, forward.out_of_memory ? 0 : forward.rows);
  // An image that is done stays known until its picture is: its device may be lost before.
  core_->StepDone(worker, forwards, SchedulingCore::DoneJobs::kKeep);
  std::vector<absl::Duration> remaining;
  for (JobId id : images) {
    remaining.push_back(images_.contains(id) ? core_->Remaining(id, rows) : absl::ZeroDuration());
  }
  return remaining;
}

void Dispatcher::AddMeasured(const std::vector<MeasuredStep>& measured) {
  MutexLock lock(&mutex_);
  for (const MeasuredStep& step : measured) costs_.Add(step).IgnoreError();  // those that cannot be tell nothing
}

void Dispatcher::TextsDone(const std::string& model, int text_tokens, int texts, absl::Duration duration) {
  MutexLock lock(&mutex_);
  core_->RecordTexts(core_->Model(model), text_tokens, texts, duration);
}

void Dispatcher::DecodeDone(const std::string& model, int picture_tokens, absl::Duration duration,
                            int64_t activation_bytes) {
  MutexLock lock(&mutex_);
  core_->RecordDecode(core_->Model(model), picture_tokens, duration, activation_bytes);
}

void Dispatcher::Park(std::unique_ptr<ActiveImage> image) {
  MutexLock lock(&mutex_);
  Image& own = images_.at(image->id);
  own.waits = true;
  own.worker = -1;
  core_->Parked(image->id, clock_->Now());
  Entry& entry = queue_[own.request->sequence()];
  entry.request = own.request;
  entry.images.push_back(image->id);
  own.parked = std::move(image);
  changed_.NotifyAll();
}

void Dispatcher::Remove(JobId image) {
  MutexLock lock(&mutex_);
  if (images_.erase(image) > 0) core_->Remove(image);
  WakeLeaving();
}

bool Dispatcher::TakeFinished(int worker, JobId image) {
  MutexLock lock(&mutex_);
  if (!workers_.at(worker).lost.empty()) return false;
  if (images_.erase(image) > 0) core_->Remove(image);
  changed_.NotifyAll();  // the decoder has room for another, and a model that waits for this may go
  return true;
}

void Dispatcher::LeavePositionsToTimer() {
  positions_stale_ = true;
  changed_.NotifyAll();
}

void Dispatcher::UpdatePositions(Followups* followups) {
  positions_stale_ = false;
  const absl::Time now = clock_->Now();
  std::map<uint64_t, int> ahead;  // requests that wait, by the devices they can run on
  for (Entry* entry : InOrder(now)) {
    const uint64_t devices = DevicesOf(entry->request->request().model);
    int position = 0;
    for (const auto& [others, count] : ahead) position += (others & devices) != 0 ? count : 0;
    ++ahead[devices];
    if (position == entry->position) continue;
    entry->position = position;
    entry->request->output()->Add(QueuedEvent{position, core_->PredictedWait(entry->images.front(), now)});
    followups->told.push_back(entry->request);
  }
}

// Those of which nothing has started.
std::vector<Dispatcher::Entry*> Dispatcher::InOrder(absl::Time now) {
  std::vector<std::pair<Rank, Entry*>> ranked;
  for (auto& [sequence, entry] : queue_) {
    if (!entry.request->started()) ranked.emplace_back(core_->OrderOf(entry.images.front(), now), &entry);
  }
  std::sort(ranked.begin(), ranked.end());
  std::vector<Entry*> order;
  for (const auto& [rank, entry] : ranked) order.push_back(entry);
  return order;
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
