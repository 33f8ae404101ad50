#include "server/rpc/model_registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "pipeline/base/strings.h"
#include "server/rpc/excerpt.h"
#include "server/scheduler/retry.h"

namespace fresco {
namespace {

// Models load in seconds to minutes; asking again this often costs nothing.
constexpr absl::Duration kLoadingRetry = absl::Seconds(2);
// Another server may have the model at once, this one when it has been started anew.
constexpr absl::Duration kLostRetry = absl::Seconds(10);

std::vector<std::string> DistinctModels(const std::vector<ModelRegistry::Replica>& replicas) {
  std::vector<std::string> models;
  for (const ModelRegistry::Replica& replica : replicas) {
    if (std::find(models.begin(), models.end(), replica.model) == models.end()) models.push_back(replica.model);
  }
  return models;
}

}  // namespace

absl::Status CouldNotBeLoaded(std::string_view model, std::string_view why) {
  return absl::FailedPreconditionError(StrCat("model '", model, "' could not be loaded: ", why));
}

ModelRegistry::ModelRegistry(const std::vector<Replica>& replicas) : models_(DistinctModels(replicas)) {
  for (const Replica& replica : replicas) {
    const ModelState state = replica.at_start ? ModelState::kLoading : ModelState::kUnloaded;
    entries_.push_back({replica, state, nullptr, "", "", replica.at_start});
  }
}

void ModelRegistry::Set(const std::string& model, const std::string& device, ModelState state, EngineView engine,
                        const std::string& error) {
  // The old engine goes without the lock: this may be the last view of it.
  MutexLock lock(&mutex_);
  was_ready_ = was_ready_ || state == ModelState::kReady;
  for (Entry& entry : entries_) {
    if (entry.replica.model != model || entry.replica.device != device) continue;
    entry.state = state;
    if (entry.lost.empty()) entry.engine.swap(engine);
    entry.error = error;
    entry.starting = entry.starting && state == ModelState::kLoading;
  }
}

void ModelRegistry::SetLoading(const std::string& model, const std::string& device) {
  Set(model, device, ModelState::kLoading, nullptr, "");
}

void ModelRegistry::SetLoaded(const std::string& model, const std::string& device,
                              const absl::StatusOr<EngineView>& engine) {
  if (engine.ok()) {
    Set(model, device, ModelState::kReady, *engine, "");
  } else {
    Set(model, device, ModelState::kFailed, nullptr, std::string(engine.status().message()));
  }
}

void ModelRegistry::SetLost(const std::string& device, const std::string& reason) {
  std::vector<EngineView> engines;  // go without the lock
  MutexLock lock(&mutex_);
  for (Entry& entry : entries_) {
    if (entry.replica.device != device) continue;
    entry.lost = reason;
    entry.starting = false;
    engines.push_back(std::exchange(entry.engine, nullptr));
  }
}

void ModelRegistry::SetUnloading(const std::string& model, const std::string& device) {
  Set(model, device, ModelState::kUnloading, nullptr, "");
}

void ModelRegistry::SetUnloaded(const std::string& model, const std::string& device) {
  Set(model, device, ModelState::kUnloaded, nullptr, "");
}

void ModelRegistry::SetOnDemand(const std::string& model, bool on_demand) {
  MutexLock lock(&mutex_);
  std::erase(on_demand_, model);
  if (on_demand) on_demand_.push_back(model);
}

void ModelRegistry::SetDraining() {
  MutexLock lock(&mutex_);
  draining_ = true;
}

void ModelRegistry::AddNote(const std::string& device, const std::string& note) {
  MutexLock lock(&mutex_);
  const std::pair<std::string, std::string> added(device, note);
  if (std::find(notes_.begin(), notes_.end(), added) == notes_.end()) notes_.push_back(added);
}

ModelStatus ModelRegistry::DescribeLocked(const std::string& model) const {
  ModelStatus status;
  status.name = model;
  bool loading = false, unloading = false, unloaded = false, failed = false;
  for (const Entry& entry : entries_) {
    if (entry.replica.model != model) continue;
    if (!entry.lost.empty()) {
      status.lost = true;
      if (status.error.empty()) status.error = StrCat("its device ", entry.replica.device, " is lost: ", entry.lost);
      continue;
    }
    loading = loading || entry.state == ModelState::kLoading;
    unloading = unloading || entry.state == ModelState::kUnloading;
    unloaded = unloaded || entry.state == ModelState::kUnloaded;
    if (entry.state == ModelState::kReady) {
      status.devices.push_back(entry.replica.device);
      status.engines.push_back(entry.engine);
    } else if (entry.state == ModelState::kFailed) {
      if (status.error.empty()) status.error = entry.error;
      failed = true;
    }
  }
  status.state = !status.engines.empty()                ? ModelState::kReady
                 : loading                              ? ModelState::kLoading
                 : unloading                            ? ModelState::kUnloading
                 : failed || (status.lost && !unloaded) ? ModelState::kFailed
                                                        : ModelState::kUnloaded;
  status.lost = status.lost && status.state == ModelState::kFailed;
  return status;
}

ModelStatus ModelRegistry::Describe(const std::string& model) const {
  MutexLock lock(&mutex_);
  return DescribeLocked(model);
}

std::string ModelRegistry::NameOf(const std::string& model) const {
  return model.empty() && !models_.empty() ? models_.front() : model;
}

absl::StatusOr<EngineView> ModelRegistry::Find(const std::string& model) const {
  const std::string name = NameOf(model);
  if (std::find(models_.begin(), models_.end(), name) == models_.end()) {
    return absl::NotFoundError(
        StrCat("there is no model '", Excerpt(name), "'; this server has ", absl::StrJoin(models_, ", ")));
  }
  const ModelStatus status = Describe(name);
  switch (status.state) {
    case ModelState::kReady:
      return status.engines.front();
    case ModelState::kLoading:
      return WithRetryAfter(absl::UnavailableError(StrCat("model '", name, "' is still loading")), kLoadingRetry);
    case ModelState::kFailed:
      if (status.lost) {
        return WithRetryAfter(
            absl::UnavailableError(StrCat("model '", name, "' has no device any more: ", status.error)), kLostRetry);
      }
      return CouldNotBeLoaded(name, status.error);
    case ModelState::kUnloading:
    case ModelState::kUnloaded:
      break;
  }
  return absl::FailedPreconditionError(
      StrCat("model '", name, "' is not loaded: LoadModel (`fresco load-model ", name, "`) loads it"));
}

std::vector<ModelStatus> ModelRegistry::List() const {
  MutexLock lock(&mutex_);
  std::vector<ModelStatus> list;
  for (const std::string& model : models_) list.push_back(DescribeLocked(model));
  return list;
}

bool ModelRegistry::Serves(const std::string& model) const {
  MutexLock lock(&mutex_);
  const ModelState state = DescribeLocked(model).state;
  const bool on_demand = std::find(on_demand_.begin(), on_demand_.end(), model) != on_demand_.end();
  return state == ModelState::kReady || (on_demand && state != ModelState::kFailed);
}

std::vector<std::string> ModelRegistry::Notes(const std::string& device) const {
  MutexLock lock(&mutex_);
  std::vector<std::string> notes;
  for (const auto& [of, note] : notes_) {
    if (of == device) notes.push_back(note);
  }
  return notes;
}

bool ModelRegistry::draining() const {
  MutexLock lock(&mutex_);
  return draining_;
}

bool ModelRegistry::AllFailed() const {
  MutexLock lock(&mutex_);
  return !was_ready_ && std::all_of(entries_.begin(), entries_.end(), [](const Entry& entry) {
    return entry.replica.at_start && entry.state == ModelState::kFailed;
  });
}

bool ModelRegistry::Starting() const {
  MutexLock lock(&mutex_);
  return std::any_of(entries_.begin(), entries_.end(), [](const Entry& entry) { return entry.starting; });
}

bool ModelRegistry::Loading() const {
  MutexLock lock(&mutex_);
  return std::any_of(entries_.begin(), entries_.end(),
                     [](const Entry& entry) { return entry.state == ModelState::kLoading && entry.lost.empty(); });
}

}  // namespace fresco
