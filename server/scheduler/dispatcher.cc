// The callers' side of the dispatcher: requests come in and end. The devices' side is dispatcher_work.cc.
#include "server/scheduler/dispatcher.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "pipeline/base/status.h"
#include "server/scheduler/device_loss.h"
#include "server/scheduler/engine_calls.h"
#include "server/scheduler/guarded.h"
#include "server/scheduler/retry.h"

namespace fresco {
namespace {

// After how long a refused caller should come back at the earliest.
constexpr absl::Duration kMinRetry = absl::Seconds(1);

absl::Status ShuttingDown() {
  return WithRetryAfter(absl::UnavailableError("the server is shutting down"), kMinRetry);
}

// Of an unknown policy, which the configuration should have refused.
std::unique_ptr<SchedulingCore> MakeCore(const CoreOptions& options, CostModel* costs) {
  auto core = SchedulingCore::Create(options, costs);
  if (core.ok()) return *std::move(core);
  std::fprintf(stderr, "%s\n", core.status().ToString().c_str());
  std::abort();
}

constexpr char kTooLarge[] = "fresco.dev/too-large";  // a refusal that an engine can explain

// Of kRefusals.
std::string_view NameOf(Admission::Refusal reason) {
  return kRefusals[static_cast<size_t>(reason) - static_cast<size_t>(Admission::Refusal::kQueueFull)];
}

absl::Status ToStatus(const Admission& admission) {
  const bool deadline = admission.refusal == Admission::Refusal::kDeadline;
  absl::Status status(deadline ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kResourceExhausted,
                      admission.message);
  if (admission.refusal == Admission::Refusal::kMemory) status.SetPayload(kTooLarge, absl::Cord());
  if (admission.retry_after == absl::ZeroDuration()) return status;
  return WithRetryAfter(std::move(status), admission.retry_after);
}

}  // namespace

Dispatcher::Dispatcher(const SchedulerOptions* options, Clock* clock, SchedulerObserver* observer)
    : options_(*options),
      clock_(clock),
      observer_(observer),
      costs_(options->costs),
      core_(MakeCore(options->core, &costs_)) {}

absl::StatusOr<std::shared_ptr<EventChannel>> Dispatcher::Submit(GenerationRequest request) {
  if (request.images.empty()) return absl::InvalidArgumentError("images: the request asks for none");
  const auto images = Weigh(request);
  if (!images.ok()) return images.status();
  Followups followups;
  absl::StatusOr<absl::Duration> wait;
  std::shared_ptr<EventChannel> channel;
  {
    MutexLock lock(&mutex_);
    const absl::Time now = clock_->Now();
    DropEnding(now, &followups);
    RequestedJobs jobs = JobsOf(request, *images);
    wait = Admit(request, jobs, now);
    if (wait.ok()) {
      const auto state =
          std::make_shared<RequestState>(std::move(request), arrivals_++, now, options_.channel_bytes, clock_);
      channel = state->channel();
      jobs.tenant = state->request().tenant;
      Enqueue(state, jobs, *wait, now);
    }
    UpdatePositions(&followups);
  }
  Follow(std::move(followups));
  if (!wait.ok()) return ExplainRefusal(request, wait.status());
  return channel;
}

absl::Status Dispatcher::ExplainRefusal(const GenerationRequest& request, const absl::Status& refusal) const {
  if (!refusal.GetPayload(kTooLarge).has_value()) return refusal;
  EngineView engine;
  {
    MutexLock lock(&mutex_);
    for (const Worker& worker : workers_) {
      const int index = EngineFor(worker, request.model);
      if (index >= 0) engine = worker.engines[index].engine;
    }
  }
  const auto largest = std::max_element(
      request.images.begin(), request.images.end(),
      [](const ImageSpec& a, const ImageSpec& b) { return int64_t{a.width} * a.height < int64_t{b.width} * b.height; });
  return engine == nullptr ? refusal : CallExplainMemory(*engine, *largest, refusal);
}

absl::StatusOr<std::vector<Dispatcher::ImageWork>> Dispatcher::Weigh(const GenerationRequest& request) const {
  std::map<int, EngineView> engines;  // by type of device: its replicas of a model say the same
  {
    MutexLock lock(&mutex_);
    FRESCO_RETURN_IF_ERROR(CheckOpen(request.model));
    for (const Worker& worker : workers_) {
      const int index = EngineFor(worker, request.model);
      if (index >= 0) engines.emplace(worker.type, worker.engines[index].engine);
    }
  }
  std::vector<ImageWork> images;
  for (const ImageSpec& spec : request.images) {
    std::optional<ImageWork> work;
    for (const auto& [type, engine] : engines) {
      if (work.has_value() && work->load.alone) break;
      FRESCO_ASSIGN_OR_RETURN(ImageWork here, WeighOn(*engine, spec));
      // Nobody knows yet which device will draw it: alone on one, it shares steps on none.
      if (!work.has_value() || here.load.alone) work = std::move(here);
    }
    images.push_back(*std::move(work));
  }
  return images;
}

absl::StatusOr<Dispatcher::ImageWork> Dispatcher::WeighOn(const Engine& engine, const ImageSpec& spec) {
  FRESCO_ASSIGN_OR_RETURN(std::string batch_key, CallBatchKey(engine, spec));
  FRESCO_ASSIGN_OR_RETURN(const ImageLoad load, CallLoadOf(engine, spec));
  return ImageWork{std::move(batch_key), load};
}

absl::Status Dispatcher::CheckOpen(const std::string& model) const {
  if (stopping_) return ShuttingDown();
  if (draining_) {
    return WithRetryAfter(absl::UnavailableError("the server is draining and takes no new requests"), kMinRetry);
  }
  if (DevicesOf(model) == 0) {
    for (const Worker& worker : workers_) {
      if (std::find(worker.had.begin(), worker.had.end(), model) != worker.had.end())
        return NoDeviceLeft(model, worker.device, worker.lost);
    }
    return WithRetryAfter(absl::UnavailableError(absl::StrCat("the model '", model, "' is not loaded")), kMinRetry);
  }
  return absl::OkStatus();
}

absl::Status Dispatcher::CheckQueue(const GenerationRequest& request, absl::Time now) {
  FRESCO_RETURN_IF_ERROR(CheckOpen(request.model));
  if (request.deadline <= now) {
    CountRefusal(request.model, kDeadlinePassed);
    return absl::DeadlineExceededError("the request's deadline has passed already");
  }
  const auto [first, last] = requests_.equal_range(KeyOf(request));
  if (std::any_of(first, last, [](const auto& entry) { return !entry.second->given_up(); })) {
    return absl::AlreadyExistsError(
        absl::StrCat("a request with the id '", request.id, "' is waiting or running already"));
  }
  return absl::OkStatus();
}

RequestedJobs Dispatcher::JobsOf(const GenerationRequest& request, const std::vector<ImageWork>& images) {
  RequestedJobs jobs;
  jobs.tenant = request.tenant;
  jobs.priority = request.priority;
  jobs.model = core_->Model(request.model);
  jobs.sequence = arrivals_;
  jobs.deadline = request.deadline;
  for (size_t i = 0; i < images.size(); ++i) {
    const auto& [batch_key, load] = images[i];
    jobs.images.push_back({batch_key, load.tokens, load.rows, request.images[i].steps, load.state_bytes,
                           load.text_tokens, load.picture_tokens, load.alone, request.images[i].deterministic});
  }
  return jobs;
}

absl::Status Dispatcher::CheckCount(absl::Time now) {
  if (waiting_ < options_.max_queue) return absl::OkStatus();
  // There is room when the first of those that wait starts.
  return WithRetryAfter(
      absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", waiting_, " requests are waiting")),
      std::max(kMinRetry, WaitOfFirst(now)));
}

absl::StatusOr<absl::Duration> Dispatcher::Admit(const GenerationRequest& request, const RequestedJobs& jobs,
                                                 absl::Time now) {
  FRESCO_RETURN_IF_ERROR(CheckQueue(request, now));
  if (const absl::Status full = CheckCount(now); !full.ok()) {
    CountRefusal(request.model, NameOf(Admission::Refusal::kQueueFull));
    return full;
  }
  const Admission admission = core_->Admit(jobs, now);
  if (admission.refusal == Admission::Refusal::kNone) return admission.wait;
  CountRefusal(request.model, NameOf(admission.refusal));
  return ToStatus(admission);
}

void Dispatcher::CountRefusal(const std::string& model, std::string_view reason) {
  notices_.Add([this, model, reason] { observer_->OnRefused(model, std::string(reason)); });
}

void Dispatcher::Enqueue(const RequestPtr& request, const RequestedJobs& jobs, absl::Duration wait, absl::Time now) {
  requests_.emplace(KeyOf(request->request()), request);
  by_channel_.emplace(request->channel().get(), request);
  last_used_[request->request().model] = now;
  ++unfinished_;
  CountWaiting(request->request(), 1);
  Entry& entry = QueueEntry(request);
  entry.predicted = wait;
  entry.images = core_->Add(jobs, now);
  for (size_t i = 0; i < entry.images.size(); ++i) {
    images_.emplace(entry.images[i], Image{request, static_cast<int>(i), true, nullptr});
  }
  changed_.NotifyAll();
}

absl::Status Dispatcher::Cancel(const std::string& tenant, const std::string& id, const absl::Status& reason) {
  Followups followups;
  {
    MutexLock lock(&mutex_);
    const auto [first, last] = requests_.equal_range({tenant, id});
    if (first == last) {
      return absl::NotFoundError(absl::StrCat("no request with the id '", id, "' is waiting or running"));
    }
    Cancel(std::prev(last)->second.get(), reason, &followups);
  }
  Follow(std::move(followups));
  return absl::OkStatus();
}

absl::Status Dispatcher::Cancel(const EventChannel& channel, const absl::Status& reason) {
  Followups followups;
  {
    MutexLock lock(&mutex_);
    const auto found = by_channel_.find(&channel);
    if (found == by_channel_.end()) return absl::NotFoundError("the request has ended");
    Cancel(found->second.get(), reason, &followups);
  }
  Follow(std::move(followups));
  return absl::OkStatus();
}

absl::Status Dispatcher::ExtendDeadline(const EventChannel& channel, absl::Time deadline) {
  MutexLock lock(&mutex_);
  const auto found = by_channel_.find(&channel);
  if (found == by_channel_.end()) return absl::NotFoundError("the request is not there, or has ended");
  RequestState* const request = found->second.get();
  const absl::Time before = request->deadline();
  if (deadline <= before) return absl::OkStatus();
  request->SetDeadline(deadline);
  if (deadlines_.erase({before, request->sequence()}) > 0 && deadline < absl::InfiniteFuture())
    deadlines_.emplace(deadline, request->sequence());
  for (const auto& [id, image] : images_) {
    if (image.request.get() == request) core_->SetDeadline(id, deadline);
  }
  return absl::OkStatus();
}

void Dispatcher::Cancel(RequestState* request, const absl::Status& reason, Followups* followups) {
  request->AskToEnd(reason.ok() ? absl::CancelledError("the request was cancelled") : reason);
  DropIfEnding(request->sequence(), clock_->Now(), followups);
  UpdatePositions(followups);
  changed_.NotifyAll();
}

void Dispatcher::Release(const RequestPtr& request) {
  if (request->Release()) return End(request);
  if (!request->ending()) return;
  Followups followups;  // what of it waits ends with it
  {
    MutexLock lock(&mutex_);
    DropIfEnding(request->sequence(), clock_->Now(), &followups);
  }
  Follow(std::move(followups));
}

void Dispatcher::End(const RequestPtr& request) {
  {
    // The id is free before the caller hears of the end and may use it again.
    MutexLock lock(&mutex_);
    const auto [first, last] = requests_.equal_range(KeyOf(request->request()));
    requests_.erase(std::find_if(first, last, [&](const auto& entry) { return entry.second == request; }));
    by_channel_.erase(request->channel().get());
    last_used_[request->request().model] = clock_->Now();
    if (request->started()) CountRunning(-1);
  }
  const absl::Time now = clock_->Now();
  const GenerationRequest& asked = request->request();
  auto told = [this, id = asked.id, model = asked.model, tenant = asked.tenant, usage = request->usage(),
               result = request->result(), duration = now - request->received()] {
    observer_->OnRequestDone(id, model, result, duration);
    observer_->OnUsage(tenant, usage);
    MutexLock lock(&mutex_);
    --unfinished_;
    changed_.NotifyAll();
  };
  notices_.Run();
  request->output()->End(request->LastEvent(now), std::move(told));
  request->output()->Deliver();
}

void Dispatcher::Follow(Followups followups) {
  followups.dropped.clear();
  for (const DeviceLoss& loss : followups.losses) Tell(loss);
  for (const SlowLoad& load : followups.slow_loads) Tell(load);
  for (const auto& told : followups.unloadable) {
    GuardedVoid("the callback", [&] { told.first(told.second); }).IgnoreError();
  }
  for (const auto& told : followups.unremoved) {
    GuardedVoid("the callback", [&] { told.first(told.second); }).IgnoreError();
  }
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
    DropAllEnding(clock_->Now(), &followups);
    changed_.NotifyAll();
  }
  Follow(std::move(followups));
  // A step may take long: its callers hear now, and the device lets go of their images at its end.
  for (const RequestPtr& request : left) {
    request->output()->End(FailedEvent{request->result()}, [] {});
    request->output()->Deliver();
  }
}

void Dispatcher::RunTimer() {
  while (true) {
    Followups followups;
    bool tells = false;
    {
      MutexLock lock(&mutex_);
      const absl::Time now = clock_->Now();
      FindHung(now, &followups);
      FindSlowLoads(now, &followups);
      DropEnding(now, &followups);
      if (!followups.released.empty() || !followups.losses.empty()) LeavePositionsToTimer();
      tells = NextPositions() <= now;
      if (followups.released.empty() && followups.losses.empty() && followups.slow_loads.empty() && !tells) {
        if (stopping_ && AllGone()) return;
        const absl::Time next = std::min({EarliestDeadline(), NextWatch(now), NextSlowLoad(), NextPositions()});
        clock_->WaitUntil(&changed_, &mutex_, next);
        continue;
      }
    }
    Follow(std::move(followups));
    if (tells) UpdatePositionsLater();
  }
}

absl::Time Dispatcher::EarliestDeadline() const {
  return deadlines_.empty() ? absl::InfiniteFuture() : deadlines_.begin()->first;
}

SchedulerSnapshot Dispatcher::Snapshot() const {
  SchedulerSnapshot snapshot;
  std::vector<RequestPtr> requests;
  {
    MutexLock lock(&mutex_);
    snapshot.waiting = waiting_;
    snapshot.running = running_;
    snapshot.draining = draining_ || stopping_;
    for (size_t i = 0; i < workers_.size(); ++i) snapshot.devices.push_back(SnapshotOf(static_cast<int>(i)));
    for (const auto& [model, time] : last_used_) snapshot.uses.push_back({model, time, false});
    requests.reserve(requests_.size());
    for (const auto& [key, request] : requests_) requests.push_back(request);
  }
  // There may be thousands: devices do not wait while each is looked at.
  std::set<std::string_view> busy;
  for (const RequestPtr& request : requests) {
    busy.insert(request->request().model);
    snapshot.requests.push_back(request->Snapshot());
  }
  for (ModelUse& use : snapshot.uses) use.busy = busy.contains(use.model);
  return snapshot;
}

DeviceSnapshot Dispatcher::SnapshotOf(int index) const {
  const Worker& worker = workers_[index];
  DeviceSnapshot device;
  device.device = worker.device;
  device.batch_size = worker.batch_size;
  device.lost = worker.lost;
  device.slow_loads = SlowLoadsOf(index);
  for (const LoadedEngine& loaded : worker.engines) {
    if (loaded.engine != nullptr) device.models.push_back(loaded.model);
  }
  return device;
}

CostModel Dispatcher::Costs() const {
  MutexLock lock(&mutex_);
  return costs_;
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
