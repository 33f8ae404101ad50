// The devices' side of the dispatcher: what a worker is to do next. The callers' side is dispatcher.cc.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <utility>

#include "server/scheduler/dispatcher.h"

namespace fresco {
namespace {

constexpr size_t kMaxWorkers = 64;  // the bits of DevicesOf

}  // namespace

int Dispatcher::AddWorker(const std::string& device) {
  MutexLock lock(&mutex_);
  if (workers_.size() == kMaxWorkers) {
    std::fprintf(stderr, "more than %zu devices: the configuration should have refused them\n", kMaxWorkers);
    std::abort();
  }
  workers_.emplace_back().device = device;
  return static_cast<int>(workers_.size()) - 1;
}

void Dispatcher::AddLoad(int worker, LoadTask task) {
  MutexLock lock(&mutex_);
  workers_.at(worker).loads.push_back(std::move(task));
  changed_.NotifyAll();
}

void Dispatcher::AddEngine(int worker, const std::string& model, const Engine* engine) {
  MutexLock lock(&mutex_);
  workers_.at(worker).engines.push_back({model, engine});
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

Work Dispatcher::NextWork(int worker, const std::vector<RunningImage>& running) {
  Work work;
  Followups followups;
  {
    MutexLock lock(&mutex_);
    PublishLoad(worker, running);
    while (true) {
      PolicyView view{clock_->Now(), {}, running};
      DropEnding(view.now, &followups);
      std::deque<LoadTask>& loads = workers_.at(worker).loads;
      work.loads.assign(std::make_move_iterator(loads.begin()), std::make_move_iterator(loads.end()));
      loads.clear();
      work.stop = stopping_;
      if (!work.stop) TakeStarts(worker, &view, &work, &followups);
      const bool idle = running.empty() && work.starts.empty() && work.loads.empty() && !work.stop;
      if (!idle || !followups.released.empty()) break;
      clock_->WaitUntil(&changed_, &mutex_, absl::InfiniteFuture());
    }
    if (!work.starts.empty() || !followups.released.empty()) LeavePositionsToTimer();
  }
  Follow(followups);
  return work;
}

void Dispatcher::DropEnding(absl::Time now, Followups* followups) {
  std::vector<Entry> staying;
  for (Entry& entry : queue_) {
    if (!entry.request->ShouldEnd(now, options_.slow_reader_limit)) {
      staying.push_back(std::move(entry));
      continue;
    }
    if (entry.worker < 0) CountWaiting(entry.request->request(), -1);
    followups->released.push_back(std::move(entry.request));
  }
  queue_ = std::move(staying);
}

void Dispatcher::TakeStarts(int worker, PolicyView* view, Work* work, Followups* followups) {
  const Worker& own = workers_.at(worker);
  // The encoder is behind: finished pictures would pile up.
  if (own.encoding >= 2 * options_.max_batch) return;
  std::vector<std::pair<Entry*, int>> images;  // of view->waiting
  for (Entry& entry : queue_) {
    const GenerationRequest& request = entry.request->request();
    const int engine = EngineFor(own, request.model);
    if (engine < 0 || (entry.worker >= 0 && entry.worker != worker)) continue;
    for (int image : entry.images) {
      view->waiting.push_back({engine, entry.request->batch_key(image), static_cast<int>(request.priority),
                               entry.request->sequence(), image, request.images[image].steps, entry.request->received(),
                               request.deadline});
      images.emplace_back(&entry, image);
    }
  }
  for (int index : ImagesToStart(*view, {options_.max_batch})) {
    const auto& [entry, image] = images.at(index);
    if (entry->worker < 0) followups->told.push_back(entry->request);
    Start(entry, worker, image, view->now);
    work->starts.push_back({entry->request, image, view->waiting[index].engine});
  }
  // The images that started hold their requests now; where none is left to start, the queue lets go.
  std::erase_if(queue_, [](const Entry& entry) { return entry.images.empty() && !entry.request->Release(); });
}

void Dispatcher::Start(Entry* entry, int worker, int image_index, absl::Time now) {
  const RequestPtr& request = entry->request;
  request->Hold();
  std::erase(entry->images, image_index);
  Worker& own = workers_.at(worker);
  const GenerationRequest& asked = request->request();
  const Engine* engine = own.engines[EngineFor(own, asked.model)].engine;
  own.busy.push_back(asked.images[image_index].steps * step_times_.Get(engine, request->batch_key(image_index)));
  if (entry->worker >= 0) return;
  entry->worker = worker;
  request->AddStart(now);
  request->output()->Add(StartedEvent{own.device});
  CountWaiting(asked, -1);
  CountRunning(1);
  notices_.Add([this, model = asked.model, wait = now - request->received()] { observer_->OnQueueWait(model, wait); });
}

void Dispatcher::PublishLoad(int worker, const std::vector<RunningImage>& running) {
  Worker& own = workers_.at(worker);
  std::set<std::pair<int, std::string_view>> groups;  // which take turns
  for (const RunningImage& image : running) groups.emplace(image.engine, image.batch_key);
  own.busy.clear();
  for (const RunningImage& image : running) {
    const absl::Duration step = step_times_.Get(own.engines[image.engine].engine, std::string(image.batch_key));
    own.busy.push_back(image.steps_left * static_cast<int>(groups.size()) * step);
  }
}

void Dispatcher::LeavePositionsToTimer() {
  positions_stale_ = true;
  changed_.NotifyAll();
}

void Dispatcher::UpdatePositions(Followups* followups) {
  positions_stale_ = false;
  std::map<uint64_t, int> ahead;  // requests that wait, by the devices they can run on
  std::vector<size_t> moved;
  for (size_t i = 0; i < queue_.size(); ++i) {
    Entry& entry = queue_[i];
    if (entry.worker >= 0) continue;
    const uint64_t devices = DevicesOf(entry.request->request().model);
    int position = 0;
    for (const auto& [others, count] : ahead) position += (others & devices) != 0 ? count : 0;
    ++ahead[devices];
    if (position == entry.position) continue;
    entry.position = position;
    moved.push_back(i);
  }
  if (moved.empty()) return;
  const std::vector<absl::Duration> waits = EstimateEntries();
  for (size_t i : moved) {
    queue_[i].request->output()->Add(QueuedEvent{queue_[i].position, waits[i]});
    followups->told.push_back(queue_[i].request);
  }
}

std::vector<absl::Duration> Dispatcher::EstimateEntries() const {
  std::vector<DeviceLoad> devices;
  for (const Worker& worker : workers_) devices.push_back({options_.max_batch, worker.busy});
  std::vector<WaitingWork> waiting;
  for (const Entry& entry : queue_) {
    WaitingWork& work = waiting.emplace_back();
    work.images = static_cast<int>(entry.images.size());
    const int first = entry.images.front();
    const GenerationRequest& request = entry.request->request();
    for (int i = 0; i < static_cast<int>(workers_.size()); ++i) {
      const int engine = EngineFor(workers_[i], request.model);
      if (engine < 0 || (entry.worker >= 0 && entry.worker != i)) continue;
      const absl::Duration step = step_times_.Get(workers_[i].engines[engine].engine, entry.request->batch_key(first));
      work.devices.emplace_back(i, request.images[first].steps * step);
    }
  }
  return EstimateWaits(devices, waiting);
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
