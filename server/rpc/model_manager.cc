#include "server/rpc/model_manager.h"

#include <algorithm>

#include "absl/strings/str_join.h"
#include "pipeline/base/format_bytes.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "server/rpc/excerpt.h"
#include "server/scheduler/engine_calls.h"
#include "server/scheduler/observer.h"
#include "server/scheduler/retry.h"

namespace fresco {
namespace {

// Requests are short; who makes no room now may a little later.
constexpr absl::Duration kBusyRetry = absl::Seconds(2);

absl::Status Draining() {
  return WithRetryAfter(absl::UnavailableError("the server is draining and takes no new requests"), kBusyRetry);
}

std::vector<std::string> NamesOf(const std::vector<ManagedModel>& models) {
  std::vector<std::string> names;
  for (const ManagedModel& model : models) names.push_back(model.name);
  return names;
}

// Calls `done` with the first error when it has been called `count` times.
ModelManager::Done WhenAll(size_t count, ModelManager::Done done) {
  struct Join {
    Mutex mutex;
    size_t left FRESCO_GUARDED_BY(mutex) = 0;
    absl::Status status FRESCO_GUARDED_BY(mutex);
  };
  auto join = std::make_shared<Join>();
  {
    MutexLock lock(&join->mutex);
    join->left = count;
  }
  return [join, done = std::move(done)](const absl::Status& status) {
    absl::Status result;
    {
      MutexLock lock(&join->mutex);
      if (join->status.ok()) join->status = status;
      if (--join->left > 0) return;
      result = join->status;
    }
    done(result);
  };
}

}  // namespace

ModelManager::ModelManager(const ModelManagerOptions& options, const ModelManagerDependencies& dependencies)
    : options_(options), dependencies_(dependencies) {
  MutexLock lock(&mutex_);
  for (const ManagedModel& model : options_.models) {
    for (const std::string& device : model.devices) {
      Replica& replica = replicas_.emplace_back();
      replica.model = &model;
      replica.device = device;
    }
    SetOnDemand(model, model.load == LoadPolicy::kOnDemand);
  }
  calls_.Run();
}

void ModelManager::LoadAtStart() {
  {
    MutexLock lock(&mutex_);
    for (const ManagedModel& model : options_.models) {
      if (model.load == LoadPolicy::kStartup) EnqueueIdle(model);
    }
  }
  calls_.Run();
}

void ModelManager::Load(const std::string& model, const std::vector<std::string>& devices, LoadDone done) {
  absl::Status refused;
  {
    MutexLock lock(&mutex_);
    const auto replicas = ToLoad(model, devices);
    refused = replicas.status();
    if (refused.ok()) {
      const ManagedModel& own = *replicas->front()->model;
      SetOnDemand(own, own.load == LoadPolicy::kOnDemand);
      Enqueue(*replicas, std::move(done));
    }
  }
  if (!refused.ok()) done(refused);
  calls_.Run();
}

void ModelManager::Unload(const std::string& model, const std::vector<std::string>& devices, Done done) {
  absl::Status refused;
  {
    MutexLock lock(&mutex_);
    const auto replicas = ToUnload(model, devices);
    refused = replicas.status();
    if (refused.ok()) {
      const ManagedModel& own = *replicas->front()->model;
      SetOnDemand(own, own.load == LoadPolicy::kOnDemand);
      const Done each = WhenAll(replicas->size(), std::move(done));
      for (Replica* replica : *replicas) {
        replica->unloaded.push_back(each);
        StartUnload(replica, Removal::kWhenDone, nullptr);
      }
    }
  }
  if (!refused.ok()) done(refused);
  calls_.Run();
}

absl::StatusOr<std::vector<ModelManager::Replica*>> ModelManager::Find(const std::string& model,
                                                                       const std::vector<std::string>& devices) {
  std::vector<Replica*> replicas;
  std::vector<std::string> known;
  for (Replica& replica : replicas_) {
    if (replica.model->name != model) continue;
    known.push_back(replica.device);
    const bool asked = std::find(devices.begin(), devices.end(), replica.device) != devices.end();
    if (asked || devices.empty()) replicas.push_back(&replica);
  }
  if (known.empty()) {
    return absl::NotFoundError(StrCat("there is no model '", Excerpt(model), "'; this server has ",
                                      absl::StrJoin(NamesOf(options_.models), ", ")));
  }
  for (const std::string& device : devices) {
    if (std::find(known.begin(), known.end(), device) != known.end()) continue;
    return absl::InvalidArgumentError(StrCat("devices: '", Excerpt(device), "' is none of the model's, which are ",
                                             absl::StrJoin(known, ", "), " as configured"));
  }
  return replicas;
}

absl::StatusOr<std::vector<ModelManager::Replica*>> ModelManager::ToLoad(const std::string& model,
                                                                         const std::vector<std::string>& devices) {
  FRESCO_ASSIGN_OR_RETURN(std::vector<Replica*> replicas, Find(model, devices));
  for (const Replica* replica : replicas) {
    const auto on = StrCat("the model '", model, "' is ");
    if (!devices.empty()) FRESCO_RETURN_IF_ERROR(LossOf(replica->device));
    if (replica->state == State::kReady && !devices.empty())
      return absl::AlreadyExistsError(StrCat(on, "loaded on ", replica->device, " already"));
    if (replica->state == State::kQueued || replica->state == State::kLoading)
      return absl::AbortedError(StrCat(on, "being loaded on ", replica->device, " already"));
    if (replica->state == State::kUnloading)
      return absl::AbortedError(StrCat(on, "being unloaded on ", replica->device, "; try again when that is done"));
  }
  const std::string last = replicas.back()->device;
  std::erase_if(replicas,
                [&](const Replica* replica) FRESCO_REQUIRES(mutex_) { return !LossOf(replica->device).ok(); });
  if (replicas.empty()) return LossOf(last);
  std::erase_if(replicas, [](const Replica* replica) { return replica->state == State::kReady; });
  if (replicas.empty()) return absl::AlreadyExistsError(StrCat("the model '", model, "' is loaded already"));
  return replicas;
}

absl::StatusOr<std::vector<ModelManager::Replica*>> ModelManager::ToUnload(const std::string& model,
                                                                           const std::vector<std::string>& devices) {
  FRESCO_ASSIGN_OR_RETURN(std::vector<Replica*> replicas, Find(model, devices));
  for (const Replica* replica : replicas) {
    if (!devices.empty()) FRESCO_RETURN_IF_ERROR(LossOf(replica->device));
    if (replica->state == State::kQueued || replica->state == State::kLoading || replica->state == State::kUnloading)
      return absl::AbortedError(StrCat("the model '", model, "' is being loaded or unloaded on ", replica->device,
                                       "; try again when that is done"));
    if (replica->state != State::kReady && !devices.empty())
      return absl::FailedPreconditionError(StrCat("the model '", model, "' is not loaded on ", replica->device));
  }
  std::erase_if(replicas, [](const Replica* replica) { return replica->state != State::kReady; });
  if (replicas.empty()) return absl::FailedPreconditionError(StrCat("the model '", model, "' is not loaded"));
  return replicas;
}

void ModelManager::EnqueueIdle(const ManagedModel& model) {
  std::vector<Replica*> replicas;
  for (Replica& replica : replicas_) {
    const bool idle = replica.state == State::kUnloaded || replica.state == State::kFailed;
    if (replica.model == &model && idle) replicas.push_back(&replica);
  }
  if (!replicas.empty()) Enqueue(replicas, [](const absl::StatusOr<Loaded>&) {});
}

void ModelManager::Enqueue(const std::vector<Replica*>& replicas, LoadDone done) {
  auto order = std::make_shared<Order>();
  order->left = static_cast<int>(replicas.size());
  order->done = std::move(done);
  for (Replica* replica : replicas) {
    replica->state = State::kQueued;
    loads_[replica->device].push_back({replica, order});
    calls_.Add([this, replica] { dependencies_.registry->SetLoading(replica->model->name, replica->device); });
  }
  Changed();
  for (Replica* replica : replicas) Advance(replica->device);
}

void ModelManager::Advance(const std::string& device) {
  const std::deque<QueuedLoad>& loads = loads_[device];
  if (loads.empty() || loads.front().replica->state != State::kQueued) return;
  const QueuedLoad load = loads.front();
  if (const absl::Status lost = LossOf(device); !lost.ok()) return Refuse(load, lost);
  if (gone_) return Refuse(load, absl::CancelledError("the scheduler is shutting down"));
  const std::optional<int64_t> budget = BudgetOf(device);
  if (!budget.has_value()) return StartLoad(load.replica);
  const std::vector<ResidentModel> residents = Residents(device, load.replica);
  const EvictionPlan plan = PlanEviction(residents, *budget, BytesOf(*load.replica));
  switch (plan.kind) {
    case EvictionPlan::Kind::kFits:
      return StartLoad(load.replica);
    case EvictionPlan::Kind::kWait:
      return;
    case EvictionPlan::Kind::kEvict:
      return Evict(device, plan.victims, load.order);
    case EvictionPlan::Kind::kImpossible:
      break;
  }
  Refuse(load, TooLarge(*load.replica, residents));
}

void ModelManager::Refuse(const QueuedLoad& load, const absl::Status& status) {
  Replica* const replica = load.replica;
  replica->state = Gone(*replica, State::kUnloaded);
  calls_.Add([this, replica, status] {
    dependencies_.registry->SetUnloaded(replica->model->name, replica->device);
    dependencies_.observer->OnLoadRefused(replica->model->name, replica->device, status);
  });
  // A request may try again: it need not stay so.
  SetOnDemand(*replica->model, replica->model->load != LoadPolicy::kManual);
  EndLoad(replica->device, status);
}

absl::Status ModelManager::TooLarge(const Replica& replica, const std::vector<ResidentModel>& residents) const {
  const int64_t budget = *BudgetOf(replica.device);
  absl::Status status = absl::ResourceExhaustedError(
      StrCat("the model '", replica.model->name, "' needs ", FormatBytes(BytesOf(replica)), " on ", replica.device,
             " (", replica.bytes.has_value() ? "measured" : "by its files", "), and of the memory budget ",
             DescribeBudget(residents, budget)));
  int64_t stays = 0;
  for (const ResidentModel& resident : residents) stays += resident.pinned && !resident.leaving ? resident.bytes : 0;
  if (stays + BytesOf(replica) > budget) return status;
  return WithRetryAfter(std::move(status), kBusyRetry);
}

void ModelManager::Evict(const std::string& device, const std::vector<std::string>& models,
                         const std::shared_ptr<Order>& order) {
  for (const std::string& model : models) {
    const auto victim = std::find_if(replicas_.begin(), replicas_.end(), [&](const Replica& replica) {
      return replica.model->name == model && replica.device == device;
    });
    StartUnload(&*victim, Removal::kIfIdle, order);
  }
}

void ModelManager::StartLoad(Replica* replica) {
  replica->state = State::kLoading;
  replica->begun = dependencies_.clock->Now();
  calls_.Add([this, replica] {
    const std::string& model = replica->model->name;
    dependencies_.observer->OnLoading(model, replica->device);
    dependencies_.scheduler->AddModel(
        model, replica->device, [this, model, device = replica->device] { return dependencies_.loader(model, device); },
        [this, replica](const absl::StatusOr<EngineView>& engine) { OnLoaded(replica, engine); });
  });
}

void ModelManager::OnLoaded(Replica* replica, const absl::StatusOr<EngineView>& loaded) {
  // A call of the engine, and so made without the lock.
  const EngineStats stats = loaded.ok() ? CallStats(**loaded) : EngineStats();
  const int64_t bytes = stats.weight_bytes - stats.evictable_weight_bytes;  // what goes by itself is in nobody's way
  {
    MutexLock lock(&mutex_);
    const absl::Status lost = LossOf(replica->device);
    const absl::StatusOr<EngineView> engine = lost.ok() ? loaded : lost;
    const absl::Time now = dependencies_.clock->Now();
    replica->took = now - replica->begun;
    replica->loaded = now;
    gone_ = gone_ || absl::IsCancelled(engine.status());
    if (engine.ok()) {
      OnReady(replica, *engine, bytes);
    } else {
      replica->state = Gone(*replica, State::kFailed);
      const absl::Status status = engine.status();
      calls_.Add([this, replica, status] {
        dependencies_.registry->SetLoaded(replica->model->name, replica->device, status);
        dependencies_.observer->OnLoadFailed(replica->model->name, replica->device, status);
      });
      EndLoad(replica->device, status);
    }
  }
  calls_.Run();
}

// Weights may take more memory than their files.
void ModelManager::OnReady(Replica* replica, const EngineView& engine, int64_t bytes) {
  replica->state = State::kReady;
  replica->engine = engine;
  replica->bytes = bytes;
  calls_.Add([this, replica, engine, took = replica->took] {
    dependencies_.registry->SetLoaded(replica->model->name, replica->device, engine);
    dependencies_.observer->OnLoaded(replica->model->name, replica->device, engine, took);
  });
  absl::Status status;
  if (const std::optional<int64_t> budget = BudgetOf(replica->device); budget.has_value()) {
    const std::vector<ResidentModel> residents = Residents(replica->device, replica);
    const EvictionPlan plan = PlanEviction(residents, *budget, *replica->bytes);
    if (plan.kind == EvictionPlan::Kind::kEvict) {
      Evict(replica->device, plan.victims, loads_[replica->device].front().order);
    } else if (plan.kind == EvictionPlan::Kind::kImpossible) {
      status = TooLarge(*replica, residents);
      calls_.Add([this, replica, status] {
        dependencies_.observer->OnLoadFailed(replica->model->name, replica->device, status);
      });
      StartUnload(replica, Removal::kWhenDone, nullptr);
    }
  }
  EndLoad(replica->device, status);
}

void ModelManager::EndLoad(const std::string& device, const absl::Status& status) {
  const QueuedLoad load = loads_[device].front();
  loads_[device].pop_front();
  Order& order = *load.order;
  if (order.status.ok()) order.status = status;
  const std::string& model = load.replica->model->name;
  const bool others = Any(model, {State::kQueued, State::kLoading, State::kReady});
  // To who draws, a model that cannot be loaded is no fault of the request, whatever the loader calls it.
  const bool failed = load.replica->state == State::kFailed && !absl::IsCancelled(status);
  const absl::Status told = failed ? CouldNotBeLoaded(model, ToStd(status.message())) : status;
  if (status.ok() || !others) TellWaiting(model, told);
  Changed();
  if (--order.left == 0) {
    calls_.Add([order = load.order] {
      order->done(order->status.ok() ? absl::StatusOr<Loaded>(order->loaded) : order->status);
    });
  }
  Advance(device);
}

void ModelManager::StartUnload(Replica* replica, Removal when, const std::shared_ptr<Order>& order) {
  const bool evicted = order != nullptr;
  replica->state = State::kUnloading;
  calls_.Add([this, replica, when, order, evicted, engine = std::exchange(replica->engine, nullptr)] {
    const std::string& model = replica->model->name;
    const absl::Status taken = dependencies_.scheduler->RemoveModel(
        model, replica->device, when, [this, replica](const absl::Status& status) { OnUnloaded(replica, status); });
    if (!taken.ok()) return OnUnloadRefused(replica, engine, taken);
    if (evicted) order->loaded.evicted.push_back(model);
    dependencies_.registry->SetUnloading(model, replica->device);
    dependencies_.observer->OnUnloading(model, replica->device, engine, evicted);
    dependencies_.observer->OnChanged();
  });
  // What was unloaded to make room comes back when it is asked for.
  if (evicted) SetOnDemand(*replica->model, true);
}

// A request has come in the meantime, the scheduler has stopped or the device is lost.
void ModelManager::OnUnloadRefused(Replica* replica, const EngineView& engine, const absl::Status& why) {
  MutexLock lock(&mutex_);
  replica->state = Gone(*replica, State::kReady);
  gone_ = gone_ || absl::IsCancelled(why);
  for (Done& done : std::exchange(replica->unloaded, {})) {
    calls_.Add([done = std::move(done), why] { done(why); });
  }
  if (replica->state == State::kReady) {
    replica->engine = engine;
    // The scheduler knows already that the device is lost: LoseDevice is on its way, and does the rest. Until it has
    // come the same would be tried, and refused, again and again.
    if (absl::IsUnavailable(why)) return;
    TellWaiting(replica->model->name, absl::OkStatus());  // who came when it was about to go
    Trim(replica->device);
  } else {
    Rescue(*replica->model, why);
  }
  Advance(replica->device);
}

// A model has turned out larger than its files, and one that was to make room for it stays after all: another may go.
void ModelManager::Trim(const std::string& device) {
  const std::optional<int64_t> budget = BudgetOf(device);
  if (gone_ || !budget.has_value() || !loads_[device].empty()) return;  // a load makes room for itself
  const EvictionPlan plan = PlanEviction(Residents(device, nullptr), *budget, 0);
  if (plan.kind == EvictionPlan::Kind::kEvict) Evict(device, plan.victims, std::make_shared<Order>());
}

void ModelManager::OnUnloaded(Replica* replica, const absl::Status& status) {
  {
    MutexLock lock(&mutex_);
    replica->state = Gone(*replica, State::kUnloaded);
    gone_ = gone_ || absl::IsCancelled(status);
    calls_.Add([this, replica] {
      dependencies_.registry->SetUnloaded(replica->model->name, replica->device);
      dependencies_.observer->OnUnloaded(replica->model->name, replica->device);
    });
    Changed();
    for (Done& done : std::exchange(replica->unloaded, {})) {
      calls_.Add([done = std::move(done), status] { done(status); });
    }
    Advance(replica->device);
    if (status.ok()) {
      // Requests that came while it went.
      if (Waits(replica->model->name)) EnqueueIdle(*replica->model);
    } else {
      Rescue(*replica->model, status);
    }
  }
  calls_.Run();
}

absl::StatusOr<bool> ModelManager::Await(const std::string& model, std::function<bool()> wanted, Done ready) {
  absl::StatusOr<bool> waits = false;
  {
    MutexLock lock(&mutex_);
    waits = AddWaiting({model, std::move(wanted), std::move(ready)});
  }
  calls_.Run();
  return waits;
}

absl::StatusOr<bool> ModelManager::AddWaiting(Waiting waiting) {
  const std::string& model = waiting.model;
  const auto own = std::find_if(options_.models.begin(), options_.models.end(),
                                [&](const ManagedModel& managed) { return managed.name == model; });
  if (own == options_.models.end() || !on_demand_[model] || Any(model, {State::kReady})) return false;
  const bool coming = Any(model, {State::kQueued, State::kLoading, State::kUnloading});
  const bool can_come = Any(model, {State::kUnloaded});
  if (!coming && !can_come) return false;
  if (stopped_) return Draining();
  if (static_cast<int>(waiting_.size()) >= options_.max_waiting) {
    std::erase_if(waiting_, [](const Waiting& other) { return !other.wanted(); });
  }
  if (static_cast<int>(waiting_.size()) >= options_.max_waiting) {
    CountRefusal(model, kModelQueueFull);
    return WithRetryAfter(absl::ResourceExhaustedError(StrCat("the queue is full: ", waiting_.size(),
                                                              " requests are waiting for models to be loaded")),
                          kBusyRetry);
  }
  waiting_.push_back(std::move(waiting));
  if (can_come && !Any(own->name, {State::kQueued, State::kLoading})) EnqueueIdle(*own);
  return true;
}

void ModelManager::CountRefusal(const std::string& model, std::string_view reason) {
  calls_.Add([this, model, reason] { dependencies_.observer->OnRequestRefused(model, reason); });
}

absl::Duration ModelManager::ExpectedLoad(const std::string& model) const {
  MutexLock lock(&mutex_);
  absl::Duration longest;
  for (const Replica& replica : replicas_) {
    if (replica.model->name == model) longest = std::max(longest, replica.took);
  }
  return longest;
}

void ModelManager::LoseDevice(const std::string& device, const std::string& reason) {
  dependencies_.registry->SetLost(device, reason);
  std::vector<EngineView> engines;  // go without the lock
  {
    MutexLock lock(&mutex_);
    lost_.emplace(device, reason);
    const absl::Status lost = LossOf(device);
    Advance(device);  // refuses what is queued
    for (Replica& replica : replicas_) {
      if (replica.device != device) continue;
      // Of loads and unloads that are under way the scheduler tells the end; what is queued behind is refused then.
      const bool ends_later =
          replica.state == State::kLoading || replica.state == State::kUnloading || replica.state == State::kQueued;
      if (ends_later) continue;
      replica.state = State::kLost;
      engines.push_back(std::exchange(replica.engine, nullptr));
      Rescue(*replica.model, lost);
    }
    Changed();
  }
  calls_.Run();
}

void ModelManager::Rescue(const ManagedModel& model, const absl::Status& status) {
  if (!Waits(model.name)) return;
  if (Any(model.name, {State::kQueued, State::kLoading, State::kReady, State::kUnloading})) return;
  if (!Any(model.name, {State::kUnloaded})) return TellWaiting(model.name, status);
  EnqueueIdle(model);
}

absl::Status ModelManager::LossOf(const std::string& device) const {
  const auto lost = lost_.find(device);
  if (lost == lost_.end()) return absl::OkStatus();
  return absl::FailedPreconditionError(StrCat("the device ", device, " is lost (", lost->second,
                                              "), and used no more until the server is started anew"));
}

ModelManager::State ModelManager::Gone(const Replica& replica, State otherwise) const {
  return lost_.contains(replica.device) ? State::kLost : otherwise;
}

void ModelManager::StopWaiting() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    for (const ManagedModel& model : options_.models) TellWaiting(model.name, Draining());
  }
  calls_.Run();
}

void ModelManager::TellWaiting(const std::string& model, const absl::Status& status) {
  // What a load itself runs out of is told as FAILED_PRECONDITION.
  const bool no_room = absl::IsResourceExhausted(status);
  for (Waiting& waiting : waiting_) {
    if (waiting.model != model) continue;
    if (no_room && waiting.wanted()) CountRefusal(model, kModelMemory);
    calls_.Add([ready = std::move(waiting.ready), status] { ready(status); });
  }
  std::erase_if(waiting_, [&](const Waiting& waiting) { return waiting.model == model; });
}

std::vector<ResidentModel> ModelManager::Residents(const std::string& device, const Replica* but) const {
  std::map<std::string, ModelUse> uses;
  for (ModelUse& use : dependencies_.scheduler->Snapshot().uses) uses[use.model] = use;
  std::vector<ResidentModel> residents;
  for (const Replica& replica : replicas_) {
    const bool there =
        replica.state == State::kLoading || replica.state == State::kReady || replica.state == State::kUnloading;
    if (!there || replica.device != device || &replica == but) continue;
    ResidentModel& resident = residents.emplace_back();
    resident.name = replica.model->name;
    resident.bytes = BytesOf(replica);
    resident.last_used = replica.loaded;
    if (const auto use = uses.find(resident.name); use != uses.end()) {
      resident.last_used = std::max(resident.last_used, use->second.last);
      resident.busy = use->second.busy;
    }
    resident.busy = resident.busy || replica.state == State::kLoading;
    // Nothing would bring a manual one back.
    resident.pinned = replica.model->pinned || replica.model->load == LoadPolicy::kManual;
    resident.leaving = replica.state == State::kUnloading;
  }
  return residents;
}

bool ModelManager::Waits(const std::string& model) const {
  return std::any_of(waiting_.begin(), waiting_.end(), [&](const Waiting& waiting) { return waiting.model == model; });
}

bool ModelManager::Any(const std::string& model, std::initializer_list<State> states) const {
  return std::any_of(replicas_.begin(), replicas_.end(), [&](const Replica& replica) {
    return replica.model->name == model && std::find(states.begin(), states.end(), replica.state) != states.end();
  });
}

void ModelManager::SetOnDemand(const ManagedModel& model, bool on_demand) {
  on_demand_[model.name] = on_demand;
  calls_.Add([this, name = model.name, on_demand] { dependencies_.registry->SetOnDemand(name, on_demand); });
}

void ModelManager::Changed() {
  calls_.Add([this] { dependencies_.observer->OnChanged(); });
}

int64_t ModelManager::BytesOf(const Replica& replica) {
  return replica.bytes.value_or(replica.model->stored_bytes);
}

std::optional<int64_t> ModelManager::BudgetOf(const std::string& device) const {
  const auto budget = options_.budgets.find(device);
  return budget == options_.budgets.end() ? std::nullopt : std::optional<int64_t>(budget->second);
}

}  // namespace fresco
