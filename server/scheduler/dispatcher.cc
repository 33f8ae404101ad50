// The callers' side of the dispatcher: requests come in and end. The devices' side is dispatcher_work.cc.
#include "server/scheduler/dispatcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "pipeline/base/status.h"
#include "server/scheduler/retry.h"

namespace fresco {
namespace {

// After how long a refused caller should come back at the earliest.
constexpr absl::Duration kMinRetry = absl::Seconds(1);

absl::Status ShuttingDown() {
  return WithRetryAfter(absl::UnavailableError("the server is shutting down"), kMinRetry);
}

}  // namespace

Dispatcher::Dispatcher(const SchedulerOptions* options, Clock* clock, SchedulerObserver* observer)
    : options_(*options), clock_(clock), observer_(observer) {}

absl::StatusOr<std::shared_ptr<EventChannel>> Dispatcher::Submit(GenerationRequest request) {
  if (request.images.empty()) return absl::InvalidArgumentError("images: the request asks for none");
  auto keys = BatchKeys(request);
  if (!keys.ok()) return keys.status();
  Followups followups;
  absl::Status refused;
  std::shared_ptr<EventChannel> channel;
  {
    MutexLock lock(&mutex_);
    const absl::Time now = clock_->Now();
    DropEnding(now, &followups);
    refused = Admit(request);
    if (refused.ok()) {
      auto state = std::make_shared<RequestState>(std::move(request), arrivals_++, now, *std::move(keys),
                                                  options_.channel_bytes, clock_);
      channel = state->channel();
      Enqueue(std::move(state));
    }
    UpdatePositions(&followups);
  }
  Follow(followups);
  if (!refused.ok()) return refused;
  return channel;
}

absl::StatusOr<std::vector<std::string>> Dispatcher::BatchKeys(const GenerationRequest& request) const {
  const Engine* engine = nullptr;
  {
    MutexLock lock(&mutex_);
    FRESCO_RETURN_IF_ERROR(CheckOpen(request.model));
    for (const Worker& worker : workers_) {
      const int index = EngineFor(worker, request.model);
      if (engine == nullptr && index >= 0) engine = worker.engines[index].engine;
    }
  }
  // Replicas of a model give equal keys.
  std::vector<std::string> keys;
  for (const ImageSpec& spec : request.images) keys.push_back(engine->BatchKey(spec));
  return keys;
}

absl::Status Dispatcher::CheckOpen(const std::string& model) const {
  if (stopping_) return ShuttingDown();
  if (draining_) {
    return WithRetryAfter(absl::UnavailableError("the server is draining and takes no new requests"), kMinRetry);
  }
  if (DevicesOf(model) == 0) {
    return WithRetryAfter(absl::UnavailableError(absl::StrCat("the model '", model, "' is not loaded yet")), kMinRetry);
  }
  return absl::OkStatus();
}

absl::Status Dispatcher::Admit(const GenerationRequest& request) const {
  FRESCO_RETURN_IF_ERROR(CheckOpen(request.model));
  if (request.deadline <= clock_->Now())
    return absl::DeadlineExceededError("the request's deadline has passed already");
  if (requests_.contains(KeyOf(request))) {
    return absl::AlreadyExistsError(
        absl::StrCat("a request with the id '", request.id, "' is waiting or running already"));
  }
  if (waiting_ >= options_.max_queue) {
    const std::vector<absl::Duration> waits = EstimateEntries();
    const auto soonest = std::min_element(waits.begin(), waits.end());
    return WithRetryAfter(
        absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", waiting_, " requests are waiting")),
        std::max(kMinRetry, soonest == waits.end() ? kMinRetry : *soonest));
  }
  return absl::OkStatus();
}

void Dispatcher::Enqueue(RequestPtr request) {
  requests_.emplace(KeyOf(request->request()), request);
  ++unfinished_;
  CountWaiting(request->request(), 1);
  Entry entry;
  entry.request = std::move(request);
  entry.images.resize(entry.request->request().images.size());
  for (int i = 0; i < static_cast<int>(entry.images.size()); ++i) entry.images[i] = i;
  const auto place = std::upper_bound(queue_.begin(), queue_.end(), entry, [](const Entry& a, const Entry& b) {
    return a.request->request().priority < b.request->request().priority;
  });
  queue_.insert(place, std::move(entry));
  changed_.NotifyAll();
}

absl::Status Dispatcher::Cancel(const std::string& tenant, const std::string& id, const absl::Status& reason) {
  Followups followups;
  {
    MutexLock lock(&mutex_);
    const auto found = requests_.find({tenant, id});
    if (found == requests_.end()) {
      return absl::NotFoundError(absl::StrCat("no request with the id '", id, "' is waiting or running"));
    }
    Cancel(found->second.get(), reason, &followups);
  }
  Follow(followups);
  return absl::OkStatus();
}

absl::Status Dispatcher::Cancel(const EventChannel& channel, const absl::Status& reason) {
  Followups followups;
  {
    MutexLock lock(&mutex_);
    const auto found = std::find_if(requests_.begin(), requests_.end(),
                                    [&](const auto& entry) { return entry.second->channel().get() == &channel; });
    if (found == requests_.end()) return absl::NotFoundError("the request has ended");
    Cancel(found->second.get(), reason, &followups);
  }
  Follow(followups);
  return absl::OkStatus();
}

void Dispatcher::Cancel(RequestState* request, const absl::Status& reason, Followups* followups) {
  request->AskToEnd(reason.ok() ? absl::CancelledError("the request was cancelled") : reason);
  DropEnding(clock_->Now(), followups);
  UpdatePositions(followups);
  changed_.NotifyAll();
}

void Dispatcher::Release(const RequestPtr& request) {
  if (request->Release()) End(request);
}

void Dispatcher::End(const RequestPtr& request) {
  {
    // The id is free before the caller hears of the end and may use it again.
    MutexLock lock(&mutex_);
    requests_.erase(KeyOf(request->request()));
    if (request->started()) CountRunning(-1);
  }
  const absl::Time now = clock_->Now();
  const GenerationRequest& asked = request->request();
  auto told = [this, id = asked.id, model = asked.model, result = request->result(),
               duration = now - request->received()] {
    observer_->OnRequestDone(id, model, result, duration);
    MutexLock lock(&mutex_);
    --unfinished_;
    changed_.NotifyAll();
  };
  notices_.Run();
  request->output()->End(request->LastEvent(now), std::move(told));
  request->output()->Deliver();
}

void Dispatcher::Follow(const Followups& followups) {
  notices_.Run();
  for (const RequestPtr& request : followups.told) request->output()->Deliver();
  for (const RequestPtr& request : followups.released) Release(request);
}

bool Dispatcher::Drain(absl::Time deadline) {
  MutexLock lock(&mutex_);
  draining_ = true;
  while (unfinished_ > 0) {
    if (clock_->Now() >= deadline) return false;
    clock_->WaitUntil(&changed_, &mutex_, deadline);
  }
  return true;
}

void Dispatcher::Stop() {
  Followups followups;
  std::vector<RequestPtr> left;
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    for (const auto& [key, request] : requests_) {
      request->AskToEnd(ShuttingDown());
      left.push_back(request);
    }
    DropEnding(clock_->Now(), &followups);
    changed_.NotifyAll();
  }
  Follow(followups);
  // A step may take long: its callers hear now, and the device lets go of their images at its end.
  for (const RequestPtr& request : left) {
    request->output()->End(FailedEvent{request->result()}, [] {});
    request->output()->Deliver();
  }
}

void Dispatcher::RunTimer() {
  while (true) {
    Followups followups;
    {
      MutexLock lock(&mutex_);
      DropEnding(clock_->Now(), &followups);
      if (followups.released.empty() && !positions_stale_) {
        if (stopping_) return;
        clock_->WaitUntil(&changed_, &mutex_, EarliestDeadline());
        continue;
      }
      UpdatePositions(&followups);
    }
    Follow(followups);
  }
}

absl::Time Dispatcher::EarliestDeadline() const {
  absl::Time earliest = absl::InfiniteFuture();
  for (const Entry& entry : queue_) earliest = std::min(earliest, entry.request->request().deadline);
  return earliest;
}

SchedulerSnapshot Dispatcher::Snapshot() const {
  MutexLock lock(&mutex_);
  SchedulerSnapshot snapshot;
  snapshot.waiting = waiting_;
  snapshot.running = running_;
  snapshot.draining = draining_ || stopping_;
  for (const auto& [key, request] : requests_) snapshot.requests.push_back(request->Snapshot());
  for (const Worker& worker : workers_) {
    DeviceSnapshot& device = snapshot.devices.emplace_back();
    device.device = worker.device;
    device.batch_size = worker.batch_size;
    for (const LoadedEngine& loaded : worker.engines) device.models.push_back(loaded.model);
  }
  return snapshot;
}

void Dispatcher::CountWaiting(const GenerationRequest& request, int change) {
  waiting_ += change;
  const int depth = depths_[{request.model, request.priority}] += change;
  notices_.Add([this, model = request.model, priority = request.priority, depth] {
    observer_->OnQueueDepth(model, std::string(PriorityName(priority)), depth);
  });
}

void Dispatcher::CountRunning(int change) {
  running_ += change;
  notices_.Add([this, running = running_] { observer_->OnRequestsRunning(running); });
}

}  // namespace fresco
