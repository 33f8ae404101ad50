// Which models this server serves and how far each is, per device: unloaded, loading, ready, unloading or failed.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/base/mutex.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/scheduler.h"

namespace fresco {

enum class ModelState { kUnloaded, kLoading, kReady, kUnloading, kFailed };

struct ModelStatus {
  std::string name;
  ModelState state = ModelState::kLoading;
  std::string error;                 // of the first replica that failed or is lost, if any is
  bool lost = false;                 // failed, since the devices that had it are lost
  std::vector<std::string> devices;  // of the replicas that are ready
  std::vector<EngineView> engines;   // likewise, in the same order
};

// What requests for a model are told that failed to load: FAILED_PRECONDITION.
absl::Status CouldNotBeLoaded(std::string_view model, std::string_view why);

// Thread-safe.
class ModelRegistry {
 public:
  // One replica: a model on a device. All are announced before the first is loaded; models keep this order.
  struct Replica {
    std::string model;
    std::string device;
    bool at_start = true;  // it is about to be loaded
  };
  explicit ModelRegistry(const std::vector<Replica>& replicas);

  // A replica is loading, has loaded or failed to, is on its way out (the registry has given its engine up), or is out.
  void SetLoading(const std::string& model, const std::string& device);
  void SetLoaded(const std::string& model, const std::string& device, const absl::StatusOr<EngineView>& engine);
  void SetUnloading(const std::string& model, const std::string& device);
  void SetUnloaded(const std::string& model, const std::string& device);
  // The device is lost, for good, and all its replicas with it, whatever is said of them afterwards.
  void SetLost(const std::string& device, const std::string& reason);
  // Whether requests for a model that is not loaded have it loaded.
  void SetOnDemand(const std::string& model, bool on_demand);
  // From now on nothing is served.
  void SetDraining();
  // What a person should know about a device: what `auto` became there, and why. Said once, however often it is added.
  void AddNote(const std::string& device, const std::string& note);

  // Which model a request means by this: empty is the first; a name that there is not stays as it is.
  std::string NameOf(const std::string& model) const;

  // An engine of a model; empty: the first model. NOT_FOUND naming the models that exist; UNAVAILABLE with a RetryAfter
  // while it loads, and when its devices are lost; FAILED_PRECONDITION with the reason if it failed, or if it is not
  // loaded.
  absl::StatusOr<EngineView> Find(const std::string& model) const;

  // READY as soon as one replica is, else LOADING, UNLOADING or FAILED as soon as one is, else UNLOADED; FAILED where
  // all are lost.
  std::vector<ModelStatus> List() const;
  ModelStatus Describe(const std::string& model) const;
  // A request for it is served, now or once it is loaded for that.
  bool Serves(const std::string& model) const;
  std::vector<std::string> Notes(const std::string& device) const;
  bool draining() const;
  // Every replica was to be loaded at the start, and failed to: nothing could ever be served.
  bool AllFailed() const;
  // Some replica that is loaded at the start is neither ready nor failed.
  bool Starting() const;
  // Some replica is loading.
  bool Loading() const;

 private:
  struct Entry {
    Replica replica;
    ModelState state = ModelState::kLoading;
    EngineView engine;     // READY
    std::string error;     // FAILED
    std::string lost;      // why its device is; empty: it is not
    bool starting = true;  // its load at the start has not ended
  };
  void Set(const std::string& model, const std::string& device, ModelState state, EngineView engine,
           const std::string& error) FRESCO_EXCLUDES(mutex_);
  ModelStatus DescribeLocked(const std::string& model) const FRESCO_REQUIRES(mutex_);

  const std::vector<std::string> models_;  // in order, each once
  mutable Mutex mutex_;
  std::vector<Entry> entries_ FRESCO_GUARDED_BY(mutex_);
  std::vector<std::string> on_demand_ FRESCO_GUARDED_BY(mutex_);
  std::vector<std::pair<std::string, std::string>> notes_ FRESCO_GUARDED_BY(mutex_);  // device, note
  bool draining_ FRESCO_GUARDED_BY(mutex_) = false;
  bool was_ready_ FRESCO_GUARDED_BY(mutex_) = false;  // any of them
};

}  // namespace fresco
