// Models that leave a device: no request is taken for them there any more, what runs goes on elsewhere or to its end,
// and the engine is destroyed on its device's thread once nobody looks at it.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "pipeline/base/status.h"
#include "server/scheduler/dispatcher.h"

namespace fresco {

Dispatcher::~Dispatcher() {
  struct Way {
    std::shared_ptr<EngineReturn> engine_return;
    std::shared_ptr<DeviceWatch> watch;
    bool lost = false;
  };
  std::vector<Way> returns;
  {
    MutexLock lock(&mutex_);
    for (const Worker& worker : workers_) returns.push_back({worker.engine_return, worker.watch, !worker.lost.empty()});
  }
  for (const auto& [engine_return, watch, lost] : returns) {
    EngineReturn::Take keep = [watch = watch](std::unique_ptr<Engine> engine) { watch->Keep(std::move(engine)); };
    engine_return->Close(lost ? std::move(keep) : nullptr);
  }
}

absl::Status Dispatcher::RemoveModel(int worker, const std::string& model, Removal when,
                                     Scheduler::RemovedCallback removed) {
  Followups followups;
  {
    MutexLock lock(&mutex_);
    Worker& own = workers_.at(worker);
    FRESCO_RETURN_IF_ERROR(LossOf(own));
    const int slot = EngineFor(own, model);
    if (stopping_) return absl::CancelledError("the scheduler is shutting down");
    if (slot < 0 || own.engines[slot].leaving) {
      return absl::NotFoundError(absl::StrCat("the model '", model, "' is not loaded on ", own.device));
    }
    if (when == Removal::kIfIdle && HasRequests(model)) {
      return absl::FailedPreconditionError(absl::StrCat("the model '", model, "' has requests"));
    }
    LoadedEngine& loaded = own.engines[slot];
    loaded.leaving = true;
    own.leaving.push_back({slot, model, loaded.engine.get(), false, std::move(removed)});
    ++leaving_;
    if (DevicesOf(model) == 0) FailWaiting(model, &followups);
    LeavePositionsToTimer();
  }
  Follow(std::move(followups));
  return absl::OkStatus();
}

void Dispatcher::FailWaiting(const std::string& model, Followups* followups) {
  for (const auto& [sequence, entry] : queue_) {
    const RequestPtr& request = entry.request;
    if (request->request().model != model || request->started()) continue;
    request->AskToEnd(absl::UnavailableError(
        absl::StrCat("the model '", model, "' was unloaded while the request waited for its turn")));
  }
  DropAllEnding(clock_->Now(), followups);
}

void Dispatcher::AdvanceRemovals(int worker, Work* work) {
  TakeReturned(worker, work);
  Worker& own = workers_.at(worker);
  for (Leaving& leaving : own.leaving) {
    if (work->stop) {
      work->unended.push_back(std::move(leaving.removed));
    } else if (!leaving.let_go) {
      leaving.let_go = Vacate(worker, leaving, work);
    }
  }
  if (work->stop) own.leaving.clear();
}

// While another device takes the model's requests, what runs here is moved there. The last one to have it does all that
// has begun.
bool Dispatcher::Vacate(int worker, const Leaving& leaving, Work* work) {
  const ModelId model = core_->Model(leaving.model);
  if (DevicesOf(leaving.model) != 0) {
    core_->SetLoaded(worker, model, false);
    may_be_stranded_ = true;
    MoveAway(worker, leaving.model, work);
  } else if (HasImages(leaving.model)) {
    core_->SetLoaded(worker, model, true);  // it has become the last: another was lost
  }
  if (HasImagesOn(worker, leaving.model)) return false;
  if (core_->index().IsLoaded(worker, model) && HasImages(leaving.model)) return false;
  core_->SetLoaded(worker, model, false);
  LoadedEngine& loaded = workers_[worker].engines[leaving.slot];
  work->vacated.push_back({leaving.slot, std::move(loaded.engine)});
  loaded = {};
  return true;
}

void Dispatcher::MoveAway(int worker, const std::string& model, Work* work) {
  for (JobId id : ResidentsOf(worker, model)) {
    core_->Preempt(id);
    work->preempted.push_back(id);
  }
}

void Dispatcher::TakeReturned(int worker, Work* work) {
  Worker& own = workers_.at(worker);
  for (std::unique_ptr<Engine>& engine : own.returned) {
    const auto found = std::find_if(own.leaving.begin(), own.leaving.end(),
                                    [&](const Leaving& leaving) { return leaving.engine == engine.get(); });
    Scheduler::RemovedCallback removed;
    if (found != own.leaving.end()) {
      removed = std::move(found->removed);
      own.leaving.erase(found);
      --leaving_;
    }
    work->returned.push_back({std::move(engine), std::move(removed)});
  }
  own.returned.clear();
}

void Dispatcher::Retire(int worker, std::unique_ptr<Engine> engine) {
  MutexLock lock(&mutex_);
  Worker& own = workers_.at(worker);
  if (!own.lost.empty()) return own.watch->Keep(std::move(engine));
  own.returned.push_back(std::move(engine));
  changed_.NotifyAll();
}

bool Dispatcher::HasImages(const std::string& model) const {
  return std::any_of(images_.begin(), images_.end(),
                     [&](const auto& entry) { return entry.second.request->request().model == model; });
}

// Until its picture is drawn: one whose steps are made has yet to be decoded.
bool Dispatcher::HasImagesOn(int worker, const std::string& model) const {
  return std::any_of(images_.begin(), images_.end(), [&](const auto& entry) {
    return entry.second.worker == worker && entry.second.request->request().model == model;
  });
}

bool Dispatcher::HasEngine(const std::string& model) const {
  return std::any_of(workers_.begin(), workers_.end(),
                     [&](const Worker& worker) { return EngineFor(worker, model) >= 0; });
}

bool Dispatcher::HasRequests(const std::string& model) const {
  return std::any_of(requests_.begin(), requests_.end(),
                     [&](const auto& entry) { return entry.second->request().model == model; });
}

std::vector<JobId> Dispatcher::ResidentsOf(int worker, const std::string& model) const {
  std::vector<JobId> residents = core_->index().device(worker).resident;
  std::erase_if(residents,
                [&](JobId id) FRESCO_REQUIRES(mutex_) { return images_.at(id).request->request().model != model; });
  return residents;
}

void Dispatcher::WakeLeaving() {
  if (leaving_ > 0) changed_.NotifyAll();
}

}  // namespace fresco
