// Which models this server serves and how far each is: loading, ready or failed, per device.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/base/mutex.h"
#include "pipeline/engine/engine.h"

namespace fresco {

enum class ModelState { kLoading, kReady, kFailed };

struct ModelStatus {
  std::string name;
  ModelState state = ModelState::kLoading;
  std::string error;                   // of the first replica that failed or is lost, if any is
  bool lost = false;                   // failed, since the devices that had it are lost
  std::vector<std::string> devices;    // of the replicas that are ready
  std::vector<const Engine*> engines;  // likewise, in the same order
};

// Thread-safe.
class ModelRegistry {
 public:
  // One replica: a model on a device. All are announced before the first is loaded; models keep this order.
  struct Replica {
    std::string model;
    std::string device;
  };
  explicit ModelRegistry(const std::vector<Replica>& replicas);

  // A replica has loaded, or failed to. The engine outlives the registry's use.
  void SetLoaded(const std::string& model, const std::string& device, const absl::StatusOr<const Engine*>& engine);
  // The device is lost, for good, and all its replicas with it.
  void SetLost(const std::string& device, const std::string& reason);
  // From now on nothing is served.
  void SetDraining();
  // What a person should know about a device: what `auto` became there, and why.
  void AddNote(const std::string& device, const std::string& note);

  // Which model a request means by this: empty is the first; a name that there is not stays as it is.
  std::string NameOf(const std::string& model) const;

  // An engine of a model; empty: the first model. NOT_FOUND naming the models that exist; UNAVAILABLE with a RetryAfter
  // while it loads, and when its devices are lost; FAILED_PRECONDITION with the reason if it failed.
  absl::StatusOr<const Engine*> Find(const std::string& model) const;

  // READY as soon as one replica is, FAILED when all have failed.
  std::vector<ModelStatus> List() const;
  std::vector<std::string> Notes(const std::string& device) const;
  bool draining() const;
  // Every replica has failed: nothing can ever be served.
  bool AllFailed() const;
  // Some replica is neither ready nor failed.
  bool Loading() const;

 private:
  struct Entry {
    Replica replica;
    std::optional<absl::StatusOr<const Engine*>> engine;  // absent: loading
    std::string lost;                                     // why its device is; empty: it is not
  };
  ModelStatus Describe(const std::string& model) const FRESCO_REQUIRES(mutex_);

  const std::vector<std::string> models_;  // in order, each once
  mutable Mutex mutex_;
  std::vector<Entry> entries_ FRESCO_GUARDED_BY(mutex_);
  std::vector<std::pair<std::string, std::string>> notes_ FRESCO_GUARDED_BY(mutex_);  // device, note
  bool draining_ FRESCO_GUARDED_BY(mutex_) = false;
};

}  // namespace fresco
