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
// Of those that wait so many are asked at one boundary whether they should end.
constexpr size_t kAskedAtOnce = 64;
// Having told their places the timer rests for so many times as long as that took.
constexpr int kRests = 50;

}  // namespace

int Dispatcher::AddWorker(const std::string& device, std::shared_ptr<DeviceWatch> watch) {
  MutexLock lock(&mutex_);
  if (workers_.size() == kMaxWorkers) {
    std::fprintf(stderr, "more than %zu devices: the configuration should have refused them\n", kMaxWorkers);
    std::abort();
  }
  Worker& worker = workers_.emplace_back();
  worker.device = device;
  worker.watch = std::move(watch);
  DeviceLimits limits;
  limits.max_batch = options_.max_batch;
  limits.max_resident = options_.max_resident;
  limits.state_bytes = options_.resident_bytes;
  return core_->AddDevice(limits);
}

void Dispatcher::AddLoad(int worker, LoadTask task) {
  Followups followups;
  {
    MutexLock lock(&mutex_);
    Worker& own = workers_.at(worker);
    if (own.lost.empty()) {
      own.loads.push_back(std::move(task));
    } else {
      followups.unloadable.push_back(std::move(task.loaded));
    }
    changed_.NotifyAll();
  }
  Follow(std::move(followups));
}

void Dispatcher::AddEngine(int worker, const std::string& model, const Engine* engine) {
  MutexLock lock(&mutex_);
  workers_.at(worker).engines.push_back({model, engine});
  core_->SetLoaded(worker, core_->Model(model), true);
  LeavePositionsToTimer();  // who shares a device with whom has changed
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
  Scheduler::LoadedCallback through;  // goes outside the lock
  {
    MutexLock lock(&mutex_);
    through = std::exchange(workers_.at(worker).loading, nullptr);
    while (true) {
      const absl::Time now = clock_->Now();
      DropHopeless(worker, now, &work, &followups);
      DropEnding(now, &followups);
      DropResidents(worker, now, &work);
      work.stop = stopping_;
      TakeLoads(worker, &work);
      // What a load brings is decided about when it is there.
      if (!work.stop && work.loads.empty()) Decide(worker, now, &work, &followups);
      const bool idle =
          work.batch.empty() && work.decodes.empty() && work.dropped.empty() && work.loads.empty() && !work.stop;
      if (!idle || !followups.released.empty()) break;
      clock_->WaitUntil(&changed_, &mutex_, absl::InfiniteFuture());
    }
    if (!work.starts.empty() || !followups.released.empty()) LeavePositionsToTimer();
  }
  Follow(std::move(followups));
  return work;
}

// One at a time: should the device be lost meanwhile, the others' callers hear of it from the dispatcher too.
void Dispatcher::TakeLoads(int worker, Work* work) {
  Worker& own = workers_.at(worker);
  while (!own.loads.empty() && (work->stop || work->loads.empty())) {
    work->loads.push_back(std::move(own.loads.front()));
    own.loads.pop_front();
  }
  if (!work->stop && !work->loads.empty()) own.loading = work->loads.front().loaded;
}

void Dispatcher::DropHopeless(int worker, absl::Time now, Work* work, Followups* followups) {
  std::vector<int64_t> ending;
  for (JobId id : core_->DropHopeless(worker, now)) {
    Image image = std::move(images_.extract(id).mapped());
    image.request->AskToEnd(absl::DeadlineExceededError("the request cannot be done by its deadline any more"));
    const int64_t sequence = image.request->sequence();
    ending.push_back(sequence);
    if (!image.waits) {
      work->dropped.push_back(id);
      continue;
    }
    std::erase(queue_.at(sequence).images, id);
    if (image.parked != nullptr) followups->dropped.push_back(std::move(image.parked));
    followups->released.push_back(std::move(image.request));
  }
  for (int64_t sequence : ending) DropIfEnding(sequence, now, followups);
}

void Dispatcher::DropEnding(absl::Time now, Followups* followups) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    DropIfEnding(queue_.find(deadlines_.begin()->second), now, followups);
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
    followups->released.push_back(std::move(image.request));
  }
  return EraseEntry(entry);
}

// Found or made.
Dispatcher::Entry& Dispatcher::QueueEntry(const RequestPtr& request) {
  Entry& entry = queue_[request->sequence()];
  entry.request = request;
  const absl::Time deadline = request->request().deadline;
  if (deadline < absl::InfiniteFuture()) deadlines_.emplace(deadline, request->sequence());
  return entry;
}

Dispatcher::EntryPlace Dispatcher::EraseEntry(EntryPlace entry) {
  deadlines_.erase({entry->second.request->request().deadline, entry->first});
  return queue_.erase(entry);
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
  Decision decision = core_->Decide(worker, now, [&](absl::Span<const JobId> images) FRESCO_REQUIRES(mutex_) {
    return TextsToEncode(worker, images);
  });
  work->decodes = std::move(decision.decode);
  for (JobId id : decision.start) work->starts.push_back(Start(worker, id, now, followups));
  work->preempted = std::move(decision.preempt);
  work->batch = std::move(decision.batch);
  if (work->batch.empty()) return;
  const uint64_t others = DevicesOf(images_.at(work->batch.front()).request->request().model);
  work->snapshots = (others & ~(uint64_t{1} << worker)) != 0;
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

void Dispatcher::DecodeDone(const std::string& model, int picture_tokens, absl::Duration duration) {
  MutexLock lock(&mutex_);
  core_->RecordDecode(core_->Model(model), picture_tokens, duration);
}

void Dispatcher::Park(std::unique_ptr<ActiveImage> image) {
  MutexLock lock(&mutex_);
  Image& own = images_.at(image->id);
  own.waits = true;
  own.worker = -1;
  core_->Parked(image->id, clock_->Now());
  QueueEntry(own.request).images.push_back(image->id);
  own.parked = std::move(image);
  changed_.NotifyAll();
}

void Dispatcher::Remove(JobId image) {
  MutexLock lock(&mutex_);
  if (images_.erase(image) > 0) core_->Remove(image);
}

void Dispatcher::LeavePositionsToTimer() {
  positions_stale_ = true;
  changed_.NotifyAll();
}

void Dispatcher::UpdateOrLeavePositions(Followups* followups) {
  if (queue_.size() > kToldAtOnce) {
    LeavePositionsToTimer();
  } else {
    UpdatePositions(followups);
  }
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
  positions_from_ = clock_->Now() + kRests * (clock_->Now() - now);
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
    if (worker.engines[i].model == model) return static_cast<int>(i);
  }
  return -1;
}

uint64_t Dispatcher::DevicesOf(const std::string& model) const {
  uint64_t devices = 0;
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (EngineFor(workers_[i], model) >= 0) devices |= uint64_t{1} << i;
  }
  return devices;
}

}  // namespace fresco
