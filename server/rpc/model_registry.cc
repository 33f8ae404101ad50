#include "server/rpc/model_registry.h"

#include <algorithm>

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

ModelRegistry::ModelRegistry(const std::vector<Replica>& replicas) : models_(DistinctModels(replicas)) {
  for (const Replica& replica : replicas) entries_.push_back({replica, std::nullopt, ""});
}

void ModelRegistry::SetLoaded(const std::string& model, const std::string& device,
                              const absl::StatusOr<const Engine*>& engine) {
  MutexLock lock(&mutex_);
  for (Entry& entry : entries_) {
    if (entry.replica.model == model && entry.replica.device == device) entry.engine = engine;
  }
}

void ModelRegistry::SetLost(const std::string& device, const std::string& reason) {
  MutexLock lock(&mutex_);
  for (Entry& entry : entries_) {
    if (entry.replica.device == device) entry.lost = reason;
  }
}

void ModelRegistry::SetDraining() {
  MutexLock lock(&mutex_);
  draining_ = true;
}

void ModelRegistry::AddNote(const std::string& device, const std::string& note) {
  MutexLock lock(&mutex_);
  notes_.emplace_back(device, note);
}

ModelStatus ModelRegistry::Describe(const std::string& model) const {
  ModelStatus status;
  status.name = model;
  bool loading = false;
  for (const Entry& entry : entries_) {
    if (entry.replica.model != model) continue;
    if (!entry.lost.empty()) {
      status.lost = true;
      if (status.error.empty()) status.error = StrCat("its device ", entry.replica.device, " is lost: ", entry.lost);
    } else if (!entry.engine.has_value()) {
      loading = true;
    } else if (entry.engine->ok()) {
      status.devices.push_back(entry.replica.device);
      status.engines.push_back(**entry.engine);
    } else if (status.error.empty()) {
      status.error = std::string(entry.engine->status().message());
    }
  }
  status.state = !status.engines.empty() ? ModelState::kReady : loading ? ModelState::kLoading : ModelState::kFailed;
  status.lost = status.lost && status.state == ModelState::kFailed;
  return status;
}

std::string ModelRegistry::NameOf(const std::string& model) const {
  return model.empty() && !models_.empty() ? models_.front() : model;
}

absl::StatusOr<const Engine*> ModelRegistry::Find(const std::string& model) const {
  const std::string name = NameOf(model);
  if (std::find(models_.begin(), models_.end(), name) == models_.end()) {
    return absl::NotFoundError(
        StrCat("there is no model '", Excerpt(name), "'; this server has ", absl::StrJoin(models_, ", ")));
  }
  MutexLock lock(&mutex_);
  const ModelStatus status = Describe(name);
  if (status.state == ModelState::kReady) return status.engines.front();
  if (status.state == ModelState::kLoading) {
    return WithRetryAfter(absl::UnavailableError(StrCat("model '", name, "' is still loading")), kLoadingRetry);
  }
  if (status.lost) {
    return WithRetryAfter(absl::UnavailableError(StrCat("model '", name, "' has no device any more: ", status.error)),
                          kLostRetry);
  }
  return absl::FailedPreconditionError(StrCat("model '", name, "' could not be loaded: ", status.error));
}

std::vector<ModelStatus> ModelRegistry::List() const {
  MutexLock lock(&mutex_);
  std::vector<ModelStatus> list;
  for (const std::string& model : models_) list.push_back(Describe(model));
  return list;
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
  return std::all_of(entries_.begin(), entries_.end(),
                     [](const Entry& entry) { return entry.engine.has_value() && !entry.engine->ok(); });
}

bool ModelRegistry::Loading() const {
  MutexLock lock(&mutex_);
  return std::any_of(entries_.begin(), entries_.end(), [](const Entry& entry) { return !entry.engine.has_value(); });
}

}  // namespace fresco
