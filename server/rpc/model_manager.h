// Brings models onto devices and takes them off again: at the start, when an operator says so, when a request needs
// one, and when another needs the room. For each device one model is loaded after another; what is served goes on.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"
#include "pipeline/engine/engine.h"
#include "server/config/config.h"
#include "server/rpc/model_registry.h"
#include "server/scheduler/ordered_calls.h"
#include "server/scheduler/policy/eviction.h"
#include "server/scheduler/scheduler.h"

namespace fresco {

struct ManagedModel {
  std::string name;
  std::vector<std::string> devices;  // by name, "auto" resolved
  LoadPolicy load = LoadPolicy::kStartup;
  bool pinned = false;
  int64_t stored_bytes =
      0;  // of its weights, as its files have them: what it is taken to need before it has been loaded
};

struct ModelManagerOptions {
  std::vector<ManagedModel> models;
  std::map<std::string, int64_t> budgets;  // bytes of weights, by device; those not named: no bound
  int max_waiting = 256;                   // requests that wait for a model to be loaded
};

// What happens to replicas, for logs, metrics and health. Calls come from many threads, without a lock held.
class ModelManagerObserver {
 public:
  virtual ~ModelManagerObserver() = default;
  virtual void OnLoading(const std::string& /*model*/, const std::string& /*device*/) {}
  virtual void OnLoaded(const std::string& /*model*/, const std::string& /*device*/, const EngineView& /*engine*/,
                        absl::Duration /*took*/) {}
  virtual void OnLoadFailed(const std::string& /*model*/, const std::string& /*device*/,
                            const absl::Status& /*status*/) {}
  // There is no room for it, its device is lost or the server is going.
  virtual void OnLoadRefused(const std::string& /*model*/, const std::string& /*device*/,
                             const absl::Status& /*status*/) {}
  // A request for it was not taken, or does not wait for it any more, for want of something: one of kRefusals.
  virtual void OnRequestRefused(const std::string& /*model*/, std::string_view /*reason*/) {}
  // `evicted`: to make room for another. The engine is about to go.
  virtual void OnUnloading(const std::string& /*model*/, const std::string& /*device*/, const EngineView& /*engine*/,
                           bool /*evicted*/) {}
  virtual void OnUnloaded(const std::string& /*model*/, const std::string& /*device*/) {}
  // The registry says something new.
  virtual void OnChanged() {}
};

// All outlive the manager; `loader` is called from many threads.
struct ModelManagerDependencies {
  Scheduler* scheduler = nullptr;
  ModelRegistry* registry = nullptr;
  Clock* clock = nullptr;
  ModelManagerObserver* observer = nullptr;
  std::function<absl::StatusOr<std::unique_ptr<Engine>>(const std::string& model, const std::string& device)> loader;
};

// Thread-safe. The scheduler is stopped before the manager goes.
class ModelManager {
 public:
  struct Loaded {
    std::vector<std::string> evicted;  // models, in the order in which they went
  };
  using LoadDone = std::function<void(const absl::StatusOr<Loaded>&)>;
  using Done = std::function<void(const absl::Status&)>;

  ModelManager(const ModelManagerOptions& options, const ModelManagerDependencies& dependencies);

  // Loads what is to be loaded at the start.
  void LoadAtStart();

  // As Operations.LoadModel and UnloadModel; `done` is called once, at once where it is refused, else on a thread of
  // the scheduler's.
  void Load(const std::string& model, const std::vector<std::string>& devices, LoadDone done);
  void Unload(const std::string& model, const std::vector<std::string>& devices, Done done);

  // For a request: whether `model` can be had by waiting. Then it is being loaded from now on, and `ready` is called
  // once: OK, or why it cannot be served. RESOURCE_EXHAUSTED where too many wait already, UNAVAILABLE after
  // StopWaiting. `wanted`, called from any thread with a lock held: false once nobody waits for the request any more;
  // where room is short it is forgotten then, and `ready` not called.
  absl::StatusOr<bool> Await(const std::string& model, std::function<bool()> wanted, Done ready);
  // Until a model that is waited for is there, as it took the last time; zero where that is not known.
  absl::Duration ExpectedLoad(const std::string& model) const;

  // The device is lost, for good, and its models with it: nothing is loaded onto it, unloaded from it or evicted there
  // any more. The registry says so when it returns.
  void LoseDevice(const std::string& device, const std::string& reason);

  // From now on nobody waits: those who do are told UNAVAILABLE.
  void StopWaiting();

  std::optional<int64_t> BudgetOf(const std::string& device) const;

 private:
  enum class State { kUnloaded, kFailed, kQueued, kLoading, kReady, kUnloading, kLost };
  struct Replica {
    const ManagedModel* model = nullptr;
    std::string device;
    State state = State::kUnloaded;
    EngineView engine;             // kReady
    std::optional<int64_t> bytes;  // as measured, this time or before
    absl::Time begun, loaded;
    absl::Duration took;         // the last load
    std::vector<Done> unloaded;  // who waits for it to be unloaded
  };
  // What a call of Load waits for: all its replicas.
  struct Order {
    int left = 0;
    absl::Status status;  // the first error
    Loaded loaded;        // the calls' (calls_)
    LoadDone done;
  };
  struct QueuedLoad {
    Replica* replica = nullptr;
    std::shared_ptr<Order> order;
  };
  // A request that waits for a model.
  struct Waiting {
    std::string model;
    std::function<bool()> wanted;
    Done ready;
  };

  absl::StatusOr<std::vector<Replica*>> Find(const std::string& model, const std::vector<std::string>& devices)
      FRESCO_REQUIRES(mutex_);
  absl::StatusOr<std::vector<Replica*>> ToLoad(const std::string& model, const std::vector<std::string>& devices)
      FRESCO_REQUIRES(mutex_);
  absl::StatusOr<std::vector<Replica*>> ToUnload(const std::string& model, const std::vector<std::string>& devices)
      FRESCO_REQUIRES(mutex_);
  void Enqueue(const std::vector<Replica*>& replicas, LoadDone done) FRESCO_REQUIRES(mutex_);
  void EnqueueIdle(const ManagedModel& model) FRESCO_REQUIRES(mutex_);
  // Does what the device's first load needs next.
  void Advance(const std::string& device) FRESCO_REQUIRES(mutex_);
  void Evict(const std::string& device, const std::vector<std::string>& models, const std::shared_ptr<Order>& order)
      FRESCO_REQUIRES(mutex_);
  void StartLoad(Replica* replica) FRESCO_REQUIRES(mutex_);
  // `order`: it is evicted for that; null: it is not.
  void StartUnload(Replica* replica, Removal when, const std::shared_ptr<Order>& order) FRESCO_REQUIRES(mutex_);
  void OnLoaded(Replica* replica, const absl::StatusOr<EngineView>& loaded) FRESCO_EXCLUDES(mutex_);
  void OnReady(Replica* replica, const EngineView& engine, int64_t bytes) FRESCO_REQUIRES(mutex_);
  void OnUnloadRefused(Replica* replica, const EngineView& engine, const absl::Status& why) FRESCO_EXCLUDES(mutex_);
  void OnUnloaded(Replica* replica, const absl::Status& status) FRESCO_EXCLUDES(mutex_);
  void Trim(const std::string& device) FRESCO_REQUIRES(mutex_);
  absl::StatusOr<bool> AddWaiting(Waiting waiting) FRESCO_REQUIRES(mutex_);
  void CountRefusal(const std::string& model, std::string_view reason) FRESCO_REQUIRES(mutex_);
  void EndLoad(const std::string& device, const absl::Status& status) FRESCO_REQUIRES(mutex_);
  void TellWaiting(const std::string& model, const absl::Status& status) FRESCO_REQUIRES(mutex_);
  void SetOnDemand(const ManagedModel& model, bool on_demand) FRESCO_REQUIRES(mutex_);
  void Changed() FRESCO_REQUIRES(mutex_);
  absl::Status LossOf(const std::string& device) const FRESCO_REQUIRES(mutex_);  // OK: it is not lost
  // The state of a replica that is not there, or `otherwise` where it may come back.
  State Gone(const Replica& replica, State otherwise) const FRESCO_REQUIRES(mutex_);
  // Requests that wait for a model get another replica, or hear why there is none.
  void Rescue(const ManagedModel& model, const absl::Status& status) FRESCO_REQUIRES(mutex_);
  void Refuse(const QueuedLoad& load, const absl::Status& status) FRESCO_REQUIRES(mutex_);
  std::vector<ResidentModel> Residents(const std::string& device, const Replica* but) const FRESCO_REQUIRES(mutex_);
  absl::Status TooLarge(const Replica& replica, const std::vector<ResidentModel>& residents) const
      FRESCO_REQUIRES(mutex_);
  bool Waits(const std::string& model) const FRESCO_REQUIRES(mutex_);
  bool Any(const std::string& model, std::initializer_list<State> states) const FRESCO_REQUIRES(mutex_);
  static int64_t BytesOf(const Replica& replica);

  const ModelManagerOptions options_;
  const ModelManagerDependencies dependencies_;
  OrderedCalls calls_;  // to others, of what was decided under the lock

  mutable Mutex mutex_;
  std::deque<Replica> replicas_ FRESCO_GUARDED_BY(mutex_);  // stay where they are
  // By device. The first is at it: it makes room, or loads.
  std::map<std::string, std::deque<QueuedLoad>> loads_ FRESCO_GUARDED_BY(mutex_);
  std::map<std::string, bool> on_demand_ FRESCO_GUARDED_BY(mutex_);  // models that a request loads
  std::vector<Waiting> waiting_ FRESCO_GUARDED_BY(mutex_);
  std::map<std::string, std::string> lost_ FRESCO_GUARDED_BY(mutex_);  // why, by device
  bool stopped_ FRESCO_GUARDED_BY(mutex_) = false;                     // nobody waits
  bool gone_ FRESCO_GUARDED_BY(mutex_) = false;                        // the scheduler is
};

}  // namespace fresco
