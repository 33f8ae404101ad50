#include "server/main/application.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"
#include "pipeline/base/status.h"
#include "pipeline/engine/memory_budget.h"
#include "pipeline/engine/memory_plan.h"
#include "server/log/logger.h"
#include "server/main/access.h"
#include "server/main/signals.h"
#include "server/metrics/metrics.h"
#include "server/rpc/content_checker.h"
#include "server/rpc/grpc_log.h"
#include "server/rpc/model_manager.h"
#include "server/rpc/model_registry.h"
#include "server/rpc/server.h"
#include "server/scheduler/policy/cost_model_file.h"
#include "server/scheduler/scheduler.h"
#include "server/scheduler/step_profiler.h"

namespace fresco {
namespace {

struct Replica {
  const ModelConfig* model;
  std::string device;   // "auto" resolved
  bool chosen = false;  // by `auto`
};

// `devices` of the configuration with `auto` as the best device that there is.
std::vector<Replica> ResolveReplicas(const std::vector<ModelConfig>& models, const EngineSource& engines) {
  const std::vector<std::string> available = engines.devices();
  std::vector<Replica> replicas;
  for (const ModelConfig& model : models) {
    for (const std::string& device : model.devices) {
      const std::string resolved = device == "auto" ? available.front() : device;
      const bool there = std::any_of(replicas.begin(), replicas.end(), [&](const Replica& replica) {
        return replica.model == &model && replica.device == resolved;
      });
      if (!there) replicas.push_back({&model, resolved, device == "auto"});
    }
  }
  return replicas;
}

std::vector<ModelRegistry::Replica> ForRegistry(const std::vector<Replica>& replicas) {
  std::vector<ModelRegistry::Replica> result;
  for (const Replica& replica : replicas)
    result.push_back({replica.model->name, replica.device, replica.model->load == LoadPolicy::kStartup});
  return result;
}

LoadOptions ForLoading(const ServerConfig& config, const ModelConfig& model, const std::string& device) {
  LoadOptions load;
  load.name = model.name;
  load.path = model.path;
  load.base = model.base;
  load.device = device;
  load.precision = model.precision;
  load.layers = model.layers;
  load.vae = model.vae;
  load.calibration = model.calibration;
  load.attention = model.attention;
  load.static_scales = model.static_scales;
  load.overflow_guard = model.overflow_guard;
  load.noise_correction = model.noise_correction;
  load.cuda_graphs = model.cuda_graphs;
  load.threads = config.threads;
  load.prompt_cache_bytes = config.prompt_cache_bytes;
  load.measure_kernels = config.measure_kernels;
  if (!config.cost_model.empty()) load.kernel_choices = std::filesystem::path(config.cost_model).parent_path().string();
  return load;
}

// The manager bounds weights that stay. Of a device's whole budget (memory.budget) it has what the most demanding model
// leaves of it while it works; of both bounds the lower one.
class ManagerBudgets {
 public:
  ManagerBudgets(const ServerConfig& config, const EngineSource& engines) : config_(config), engines_(engines) {}

  // What is wrong with its files is said when it is loaded.
  int64_t BytesOf(const Replica& replica) {
    const ModelConfig& model = *replica.model;
    const int64_t budget = config_.BudgetOf(replica.device);
    if (budget == 0 || engines_.least_memory == nullptr)
      return config_.memory_budgets.empty() ? 0 : engines_.stored_bytes(model.path, model.base).value_or(0);
    const MemoryNeed need = engines_.least_memory(ForLoading(config_, model, replica.device)).value_or(MemoryNeed());
    // One that can never fit is let through: its load says why, and what would.
    if (need.kept_bytes + need.working_bytes > budget) return 0;
    int64_t& working = working_[replica.device];
    working = std::max(working, need.working_bytes);
    return need.kept_bytes;
  }
  std::map<std::string, int64_t> budgets() const {
    std::map<std::string, int64_t> budgets = config_.memory_budgets;
    for (const auto& [device, working] : working_) {
      const int64_t left = std::max<int64_t>(1, config_.BudgetOf(device) - working);
      const auto [own, added] = budgets.emplace(device, left);
      if (!added) own->second = std::min(own->second, left);
    }
    return budgets;
  }

 private:
  const ServerConfig& config_;
  const EngineSource& engines_;
  std::map<std::string, int64_t> working_;  // by device
};

ModelManagerOptions ForManager(const ServerConfig& config, const EngineSource& engines,
                               const std::vector<Replica>& replicas) {
  ModelManagerOptions result;
  ManagerBudgets budgets(config, engines);
  result.max_waiting = config.max_queue;
  for (const ModelConfig& model : config.models) {
    ManagedModel& managed = result.models.emplace_back();
    managed.name = model.name;
    managed.load = model.load;
    managed.pinned = model.pinned;
    for (const Replica& replica : replicas) {
      if (replica.model != &model) continue;
      managed.devices.push_back(replica.device);
      managed.stored_bytes = std::max(managed.stored_bytes, budgets.BytesOf(replica));
    }
  }
  result.budgets = budgets.budgets();
  return result;
}

std::vector<std::string> ModelNames(const ServerConfig& config) {
  std::vector<std::string> names;
  for (const ModelConfig& model : config.models) names.push_back(model.name);
  return names;
}

SchedulerOptions ForScheduler(const ApplicationOptions& options, CostModel costs) {
  const ServerConfig& config = options.config;
  SchedulerOptions result;
  result.max_queue = config.max_queue;
  result.max_batch = config.max_batch;
  result.max_resident = config.max_resident;
  result.measure_at_load = config.measure_at_load;
  result.resident_bytes = config.resident_bytes;
  result.decoding = config.decoding;
  result.preview_share = config.preview_share;
  result.core = config.scheduling;
  result.costs = std::move(costs);
  result.watchdog = config.watchdog;
  // Then what is computed may wait for components to be read, and that is no device that hangs.
  if (config.device_budget > 0 || !config.device_budgets.empty())
    result.watchdog.floor = std::max(config.watchdog.floor, config.watchdog.load);
  result.encode_threads = config.encode_threads;
  result.slow_reader_limit = config.slow_reader_limit;
  result.channel_bytes = config.channel_bytes;
  result.software = StrCat("fresco ", options.version);
  result.prompts_in_metadata = config.embed_prompts;
  return result;
}

RpcOptions ForRpc(const ApplicationOptions& options) {
  const ServerConfig& config = options.config;
  RpcOptions result;
  result.address = config.address;
  result.version = options.version;
  result.limits = config.limits;
  result.results = config.results;
  result.tenant_header = config.tenant_header;
  result.max_queue = config.max_queue;
  result.max_request_bytes = config.max_request_bytes;
  result.max_concurrent_streams = config.max_concurrent_streams;
  result.connections = config.connections;
  result.slow_reader_limit = config.slow_reader_limit;
  result.slow_reader_rate = config.slow_reader_rate;
  result.channel_bytes = config.channel_bytes;
  return result;
}

std::unique_ptr<ContentChecker> MakeChecker(const ContentCheckConfig& config) {
  return config.address.empty() ? nullptr : std::make_unique<ContentChecker>(config);
}

std::string HostOf(const std::string& address) {
  return address.substr(0, address.rfind(':'));
}

// What the main thread waits for; the first that comes counts.
class Ending {
 public:
  enum class Cause { kSignal, kNothingToServe, kDeviceLost };
  struct Why {
    Cause cause = Cause::kSignal;
    int signal = 0;
  };

  void Signal(int signal) { Set({Cause::kSignal, signal}); }
  void NothingToServe() { Set({Cause::kNothingToServe}); }
  void DeviceLost() { Set({Cause::kDeviceLost}); }
  Why Wait() {
    MutexLock lock(&mutex_);
    while (!why_.has_value()) changed_.Wait(&mutex_);
    return *why_;
  }

 private:
  void Set(Why why) {
    MutexLock lock(&mutex_);
    if (!why_.has_value()) why_ = why;
    changed_.NotifyAll();
  }

  Mutex mutex_;
  CondVar changed_;
  std::optional<Why> why_ FRESCO_GUARDED_BY(mutex_);
};

// For callers to read their last events once all work is done, at the least.
constexpr absl::Duration kLastReads = absl::Seconds(5);

// For those who are cut off, to read that they are; and for streams that never end by themselves, like Health.Watch.
constexpr absl::Duration kLastWords = absl::Seconds(1);

std::shared_ptr<StepProfiler> MakeProfiler(const ProfilerSource& source, Clock* clock) {
  return source.recorder ? std::make_shared<StepProfiler>(source, clock) : nullptr;
}

class Application : private ModelManagerObserver {
 public:
  explicit Application(const ApplicationOptions& options)
      : options_(options),
        signals_([this](int signal, int count) { OnSignal(signal, count); }),
        metrics_(ModelNames(options.config), options.version),
        logger_(options.config.log, &clock_, [this] { metrics_.CountLostLogLine(); }),
        grpc_log_(&logger_, &clock_),
        replicas_(ResolveReplicas(options.config.models, options.engines)),
        budgets_(MakeBudgets()),
        registry_(ForRegistry(replicas_)),
        access_(options.config, &clock_, &logger_, &metrics_),
        checker_(MakeChecker(options.config.content_check)),
        profiler_(MakeProfiler(options.engines.profiler, &clock_)),
        scheduler_(std::make_unique<Scheduler>(SchedulerSettings(), &clock_, &metrics_)),
        manager_(ForManager(options.config, options.engines, replicas_),
                 {scheduler_.get(), &registry_, &clock_, this,
                  [this](const std::string& model, const std::string& device) { return Load(model, device); }}) {}

  // Nobody calls the scheduler any more when it goes, nor it the manager.
  ~Application() override {
    StopServers(absl::ZeroDuration());
    scheduler_.reset();
  }

  absl::Status Run() {
    metrics_.SetLimits({options_.config.max_queue, options_.config.scheduling.classes, options_.config.memory_budgets,
                        DeviceBudgets()});
    FRESCO_RETURN_IF_ERROR(LimitMemory());
    for (const Replica& replica : replicas_) metrics_.Announce(replica.model->name, replica.device);
    FRESCO_RETURN_IF_ERROR(Listen());
    for (const Replica& replica : replicas_) NoteChoice(replica);
    manager_.LoadAtStart();
    const Ending::Why why = ending_.Wait();
    if (why.cause == Ending::Cause::kNothingToServe) return NoModelError();
    ShutDown(why);
    return absl::OkStatus();
  }

 private:
  std::map<std::string, int64_t> DeviceBudgets() const {
    std::map<std::string, int64_t> bytes;
    for (const auto& [device, budget] : budgets_) bytes.emplace(device, budget->bytes());
    return bytes;
  }

  SchedulerOptions SchedulerSettings() {
    SchedulerOptions settings = ForScheduler(options_, KeptCosts());
    settings.step_profiler = profiler_;
    settings.on_device_lost = [this](const DeviceLoss& loss) { OnDeviceLost(loss); };
    if (checker_ != nullptr && checker_->checks_pictures()) {
      settings.check_picture = [this](const GenerationRequest& request, int index, const EncodedImage& picture) {
        return checker_->CheckPicture(request, index, picture);
      };
    }
    settings.on_slow_load = [this](const SlowLoad& load) {
      logger_.Log(LogLevel::kWarning, "model_loads_slowly",
                  {{"model", load.model}, {"device", load.device}, {"since", absl::FormatDuration(load.since)}});
    };
    return settings;
  }

  // Nothing, where none are kept or the file cannot be used: they are learned anew, and the file is replaced at the
  // end.
  CostModel KeptCosts() {
    if (options_.config.cost_model.empty()) return {};
    absl::StatusOr<CostModel> costs = LoadCostModel(options_.config.cost_model);
    if (costs.ok()) return *std::move(costs);
    if (!absl::IsNotFound(costs.status())) {
      logger_.Log(LogLevel::kWarning, "cost_model_not_read", {{"message", std::string(costs.status().message())}});
    }
    return {};
  }

  void KeepCosts() {
    if (options_.config.cost_model.empty()) return;
    MutexLock lock(&costs_mutex_);
    const absl::Status saved = SaveCostModel(scheduler_->Costs(), options_.config.cost_model);
    if (!saved.ok()) {
      logger_.Log(LogLevel::kWarning, "cost_model_not_saved", {{"message", std::string(saved.message())}});
    }
  }

  absl::Status Listen() {
    FRESCO_RETURN_IF_ERROR(CheckExposure(options_.config));
    FRESCO_RETURN_IF_ERROR(access_.Start());
    if (options_.config.metrics_enabled) {
      FRESCO_ASSIGN_OR_RETURN(metrics_server_, MetricsServer::Start(options_.config.metrics_address, &metrics_));
    }
    RpcDependencies dependencies;
    dependencies.scheduler = scheduler_.get();
    dependencies.models = &registry_;
    dependencies.logger = &logger_;
    dependencies.clock = &clock_;
    dependencies.random = RandomBits;
    dependencies.manager = &manager_;
    dependencies.profiler = profiler_.get();
    dependencies.callers = access_.callers();
    dependencies.audit = access_.audit();
    dependencies.checker = checker_.get();
    dependencies.on_health = [this](bool serving, bool draining, const auto& models) {
      metrics_.SetServing(serving, draining, models);
    };
    dependencies.on_call_done = [this](const std::string& model, const std::string& code) {
      metrics_.CountRequest(model, code);
    };
    dependencies.on_joined = [this](const std::string& model) { metrics_.CountJoined(model); };
    dependencies.on_connection_ended = [this] { metrics_.CountConnectionEnded(); };
    dependencies.on_result_served = [this](const std::string& model) { metrics_.CountResultServed(model); };
    dependencies.on_results_held = [this](int64_t bytes) { metrics_.SetResultsHeld(bytes); };
    RpcOptions rpc = ForRpc(options_);
    rpc.tls = access_.tls();
    FRESCO_ASSIGN_OR_RETURN(rpc_server_, RpcServer::Start(rpc, dependencies));
    return AnnouncePorts();
  }

  absl::Status AnnouncePorts() {
    const std::string address = StrCat(HostOf(options_.config.address), ":", rpc_server_->port());
    const std::string metrics_address =
        metrics_server_ ? StrCat(HostOf(options_.config.metrics_address), ":", metrics_server_->port()) : "";
    logger_.Log(LogLevel::kInfo, "listening",
                {{"address", address},
                 {"tls", options_.config.tls.has_value()},
                 {"tokens", !options_.config.tokens.empty()},
                 {"metrics_address", metrics_address},
                 {"version", options_.version},
                 {"pid", int64_t{getpid()}}});
    if (options_.port_file.empty()) return absl::OkStatus();
    const nlohmann::ordered_json json = {{"address", address},
                                         {"port", rpc_server_->port()},
                                         {"metrics_address", metrics_address},
                                         {"metrics_port", metrics_server_ ? metrics_server_->port() : 0},
                                         {"pid", getpid()}};
    // Renamed into place, so that whoever waits for the file never reads half of it; but not over a device or a pipe,
    // which would be gone.
    std::error_code error;
    const bool whole = !std::filesystem::exists(options_.port_file, error) ||
                       std::filesystem::is_regular_file(options_.port_file, error);
    const std::string partial = options_.port_file + (whole ? ".partial" : "");
    error.clear();
    if (std::ofstream file(partial); !(file << json.dump() << "\n" << std::flush))
      error = std::make_error_code(std::errc::io_error);
    if (!error && whole) std::filesystem::rename(partial, options_.port_file, error);
    if (error)
      return absl::UnavailableError(StrCat("cannot write --port-file ", options_.port_file, ": ", error.message()));
    return absl::OkStatus();
  }

  void NoteChoice(const Replica& replica) {
    if (replica.chosen)
      registry_.AddNote(replica.device, StrCat(replica.model->name, ": device auto became ", replica.device));
  }

  const ModelConfig& ConfigOf(const std::string& name) const {
    const std::vector<ModelConfig>& models = options_.config.models;
    return *std::find_if(models.begin(), models.end(), [&](const ModelConfig& model) { return model.name == name; });
  }

  absl::Status LimitMemory() {
    std::map<std::string, int64_t> limits;
    for (const Replica& replica : replicas_) limits[replica.device] = options_.config.LimitOf(replica.device);
    for (const auto& [device, bytes] : limits) {
      if (bytes == 0) continue;
      if (options_.engines.limit_memory == nullptr)
        return absl::UnimplementedError("memory.limit: this server's engines have none");
      FRESCO_RETURN_IF_ERROR(Annotate(options_.engines.limit_memory(device, bytes), "memory.limit"));
    }
    return absl::OkStatus();
  }

  // One for each device, which its models share.
  std::map<std::string, std::shared_ptr<MemoryBudget>> MakeBudgets() {
    std::map<std::string, std::shared_ptr<MemoryBudget>> budgets;
    for (const Replica& replica : replicas_) {
      const int64_t bytes = options_.config.BudgetOf(replica.device);
      if (bytes == 0 || budgets.contains(replica.device)) continue;
      const auto log = [this, device = replica.device](const ComponentLoad& load) {
        logger_.Log(LogLevel::kInfo, "component_loaded",
                    {{"model", load.model},
                     {"device", device},
                     {"component", load.component},
                     {"bytes", load.bytes},
                     {"seconds", absl::ToDoubleSeconds(load.took)}});
      };
      budgets.emplace(replica.device, std::make_shared<MemoryBudget>(bytes, &clock_, log));
    }
    return budgets;
  }

  absl::StatusOr<std::unique_ptr<Engine>> Load(const std::string& name, const std::string& device) {
    const ModelConfig& model = ConfigOf(name);
    LoadOptions load = ForLoading(options_.config, model, device);
    if (const auto budget = budgets_.find(device); budget != budgets_.end()) load.memory = budget->second;
    return options_.engines.load(load);
  }

  // Of the manager; from many threads.
  void OnLoading(const std::string& model, const std::string& device) override {
    logger_.Log(LogLevel::kInfo, "model_loading",
                {{"model", model}, {"device", device}, {"path", ConfigOf(model).path}});
  }

  void OnLoaded(const std::string& model, const std::string& /*device*/, const EngineView& engine,
                absl::Duration took) override {
    metrics_.AddEngine(engine, took);
    DescribeLoaded(engine->info(), ConfigOf(model), took);
    KeepCosts();  // what was measured as it was loaded: a process that is killed keeps nothing at its end
  }

  void OnLoadFailed(const std::string& model, const std::string& device, const absl::Status& status) override {
    // CANCELLED: the server is going, which is no fault of the model.
    if (status.code() != absl::StatusCode::kCancelled) {
      metrics_.CountLoadFailure(model);
      logger_.Log(LogLevel::kError, "model_failed",
                  {{"model", model}, {"device", device}, {"message", std::string(status.message())}});
    }
    // What a lost device means for the server is the configuration's to say.
    if (!device_lost_ && registry_.AllFailed()) ending_.NothingToServe();
  }

  void OnLoadRefused(const std::string& model, const std::string& device, const absl::Status& status) override {
    if (absl::IsCancelled(status)) return;
    logger_.Log(LogLevel::kWarning, "model_refused",
                {{"model", model}, {"device", device}, {"message", std::string(status.message())}});
  }

  void OnRequestRefused(const std::string& model, std::string_view reason) override {
    metrics_.OnRefused(model, std::string(reason));
  }

  void OnUnloading(const std::string& model, const std::string& device, const EngineView& engine,
                   bool evicted) override {
    metrics_.RemoveEngine(*engine, evicted);
    logger_.Log(LogLevel::kInfo, "model_unloading",
                {{"model", model}, {"device", device}, {"reason", evicted ? "evicted" : "asked"}});
  }

  void OnUnloaded(const std::string& model, const std::string& device) override {
    logger_.Log(LogLevel::kInfo, "model_unloaded", {{"model", model}, {"device", device}});
  }

  void OnChanged() override {
    if (rpc_server_ != nullptr) rpc_server_->RefreshHealth();
  }

  void DescribeLoaded(const ModelInfo& info, const ModelConfig& model, absl::Duration took) {
    for (const std::string& note : info.notes) {
      registry_.AddNote(info.device, StrCat(info.name, ": ", note));
      logger_.Log(LogLevel::kInfo, "model_note", {{"model", info.name}, {"device", info.device}, {"note", note}});
    }
    logger_.Log(LogLevel::kInfo, "model_ready",
                {{"model", info.name},
                 {"device", info.device},
                 {"architecture", info.architecture},
                 {"precision", info.precision},
                 {"precision_asked", model.precision},
                 {"weights_digest", info.weights_digest},
                 {"seconds", absl::ToDoubleSeconds(took)}});
  }

  void OnDeviceLost(const DeviceLoss& loss) {
    device_lost_ = true;
    logger_.Log(LogLevel::kError, "device_lost",
                {{"device", loss.device},
                 {"reason", loss.reason},
                 {"models", absl::StrJoin(loss.models, ",")},
                 {"exits", options_.config.exit_when_device_lost}});
    manager_.LoseDevice(loss.device, loss.reason);
    rpc_server_->RefreshHealth();
    if (options_.config.exit_when_device_lost) ending_.DeviceLost();
  }

  absl::Status NoModelError() {
    std::string message = "no model can be served";
    for (const ModelStatus& model : registry_.List()) message += StrCat("; ", model.name, ": ", model.error);
    return absl::FailedPreconditionError(message);
  }

  void ShutDown(Ending::Why why) {
    registry_.SetDraining();
    manager_.StopWaiting();
    rpc_server_->RefreshHealth();
    scheduler_->Drain(absl::InfinitePast());  // the line below means it: nothing new is taken
    const double grace = absl::ToDoubleSeconds(options_.config.grace_period);
    const bool signal = why.cause == Ending::Cause::kSignal;
    logger_.Log(LogLevel::kInfo, "stopping",
                {{"cause", std::string(signal ? "signal" : "device_lost")},
                 {"signal", int64_t{why.signal}},
                 {"grace_period_s", grace}});
    const absl::Time deadline = clock_.Now() + options_.config.grace_period;
    const bool drained = scheduler_->Drain(deadline);
    // What is drawn has to be read too.
    if (drained) rpc_server_->AwaitCalls(&clock_, std::max(deadline, clock_.Now() + kLastReads));
    if (!drained) {
      const SchedulerSnapshot left = scheduler_->Snapshot();
      logger_.Log(LogLevel::kWarning, "grace_period_over",
                  {{"requests_cut_off", int64_t{left.waiting + left.running}}});
      scheduler_->Stop();  // callers hear from it why, and when to come back
    }
    StopServers(kLastWords);
    KeepCosts();
    logger_.Log(LogLevel::kInfo, "stopped", {});
    // A step or a load that is under way cannot be interrupted, and nobody waits for it any more; and what a lost
    // device has done to libtorch's state is not known.
    if (!signal) Exit(kRestartExitCode);
    if (!drained || device_lost_ || registry_.Loading()) Exit(EXIT_SUCCESS);
  }

  [[noreturn]] void Exit(int code) {
    access_.Stop();
    std::_Exit(code);
  }

  void StopServers(absl::Duration grace) {
    if (rpc_server_ != nullptr) rpc_server_->Shutdown(grace);
    if (checker_ != nullptr) checker_->AwaitAnswers();  // they lead to the scheduler
    metrics_server_.reset();
  }

  void OnSignal(int signal, int count) {
    if (count > 1) std::_Exit(128 + signal);
    ending_.Signal(signal);
  }

  const ApplicationOptions& options_;
  SystemClock clock_;
  std::atomic<bool> device_lost_ = false;
  Mutex costs_mutex_;  // of their file
  Ending ending_;
  Signals signals_;  // before whatever makes threads
  Metrics metrics_;
  Logger logger_;
  GrpcLog grpc_log_;  // before whatever uses gRPC
  const std::vector<Replica> replicas_;
  const std::map<std::string, std::shared_ptr<MemoryBudget>> budgets_;  // by device
  ModelRegistry registry_;
  Access access_;
  const std::unique_ptr<ContentChecker> checker_;  // null: nothing is checked; goes after the scheduler, which asks it
  std::unique_ptr<RpcServer> rpc_server_;          // goes after the scheduler, whose threads refresh its health
  std::unique_ptr<MetricsServer> metrics_server_;  // stopped before the engines go
  const std::shared_ptr<StepProfiler> profiler_;   // null: there is none to be had
  std::unique_ptr<Scheduler> scheduler_;
  ModelManager manager_;
};

}  // namespace

// The device is read anew each time, so that threads share nothing.
uint64_t RandomBits() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

absl::Status RunServer(const ApplicationOptions& options) {
  return Application(options).Run();
}

}  // namespace fresco
