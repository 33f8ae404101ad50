#include "server/metrics/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <exception>
#include <set>
#include <string_view>

#include "pipeline/base/mutex.h"
#include "pipeline/base/strings.h"
#include "server/metrics/engine_metrics.h"
#include "server/metrics/process_metrics.h"
#include "server/scheduler/policy/job.h"

namespace fresco {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;
using Histograms = prometheus::Family<prometheus::Histogram>;
using Counters = prometheus::Family<prometheus::Counter>;
using Gauges = prometheus::Family<prometheus::Gauge>;

// Seconds, from a cached prompt's encoding to a long queue.
const Buckets& DurationBuckets() {
  static const Buckets* const buckets =
      new Buckets{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600};
  return *buckets;
}

constexpr char kNoTenant[] = "(none)", kOtherTenant[] = "(other)";  // no tenant's name has brackets
constexpr std::array<const char*, 2> kReloadOutcomes = {"failed", "ok"};
// That alerts look for: the first of its kind is to be seen as one more.
constexpr std::array<std::string_view, 7> kWatchedCodes = {
    "OK", "INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"};

constexpr std::array<std::string_view, 2> kUnloadReasons = {"asked", "evicted"};

const Buckets& BatchBuckets() {
  static const Buckets* const buckets = new Buckets{1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64};
  return *buckets;
}

const Buckets& ErrorBuckets() {
  static const Buckets* const buckets = new Buckets{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10};
  return *buckets;
}

Histograms& MakeHistograms(prometheus::Registry* registry, const std::string& name, const std::string& help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(*registry);
}
Counters& MakeCounters(prometheus::Registry* registry, const std::string& name, const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
}
Gauges& MakeGauges(prometheus::Registry* registry, const std::string& name, const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry);
}

}  // namespace

class Metrics::Impl {
 public:
  Impl(const std::vector<std::string>& names, const std::string& version) : models(names.begin(), names.end()) {
    MakeGauges(registry.get(), "fresco_build_info", "1, labelled with the server's version.")
        .Add({{"version", version}})
        .Set(1);
    // What can be nothing yet is shown as nothing, so that rates and alerts work from the first scrape.
    for (const std::string& model : models) {
      images.Add({{"model", model}});
      joined.Add({{"model", model}});
      served.Add({{"model", model}});
      for (const std::string_view code : kWatchedCodes) requests.Add({{"model", model}, {"code", std::string(code)}});
      loads.Add({{"model", model}});
      load_failures.Add({{"model", model}});
      for (const std::string_view reason : kUnloadReasons)
        unloads.Add({{"model", model}, {"reason", std::string(reason)}});
      for (const std::string_view priority : kPriorityClassNames)
        queue_depth.Add({{"model", model}, {"priority", std::string(priority)}});
      for (const std::string_view reason : kRefusals) refusals.Add({{"model", model}, {"reason", std::string(reason)}});
    }
    running.Add({});
    serving.Add({});
    draining.Add({});
    for (const std::string& model : models) model_serving.Add({{"model", model}});
    connections_ended.Add({});
    lost_log_lines.Add({});
    results_held.Add({});
    for (const char* setting : {"tls", "tokens"}) {
      for (const char* outcome : kReloadOutcomes) reloads.Add({{"setting", setting}, {"outcome", outcome}});
    }
    for (const char* tenant : {kNoTenant, kOtherTenant}) AddTenant(tenant);
  }

  void AddTenant(const std::string& tenant) {
    for (Counters* counters : {&tenant_images, &tenant_steps, &tenant_device_time}) counters->Add({{"tenant", tenant}});
  }

  std::string TenantLabel(const std::string& tenant) const {
    if (tenant.empty()) return kNoTenant;
    MutexLock lock(&tenants_mutex);
    return tenants.contains(tenant) ? tenant : kOtherTenant;
  }

  // The model's name where it is one of the configured ones.
  std::string Label(const std::string& model) const { return models.count(model) ? model : "(unknown)"; }

  void Observe(Histograms* family, const prometheus::Labels& labels, absl::Duration duration) {
    family->Add(labels, DurationBuckets()).Observe(absl::ToDoubleSeconds(duration));
  }

  const std::set<std::string> models;
  mutable Mutex tenants_mutex;
  std::set<std::string> tenants FRESCO_GUARDED_BY(tenants_mutex);
  const std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  const std::shared_ptr<EngineMetrics> engines = std::make_shared<EngineMetrics>();
  const std::shared_ptr<ProcessMetrics> process = std::make_shared<ProcessMetrics>();

  Counters& requests =
      MakeCounters(registry.get(), "fresco_requests_total", "Calls that have ended, by the code that the caller got.");
  Counters& images = MakeCounters(registry.get(), "fresco_images_total", "Images drawn.");
  Counters& joined = MakeCounters(registry.get(), "fresco_requests_joined_total",
                                  "Calls that have joined a request of the same id that was running.");
  Counters& served = MakeCounters(registry.get(), "fresco_results_served_total",
                                  "Calls that were given what was drawn for an earlier one of the same id.");
  Gauges& results_held =
      MakeGauges(registry.get(), "fresco_results_kept_bytes", "Pictures held for calls that may ask for them again.");
  Counters& connections_ended =
      MakeCounters(registry.get(), "fresco_connections_ended_total",
                   "Connections that were ended, since calls were begun on them and given up without end.");
  Counters& lost_log_lines =
      MakeCounters(registry.get(), "fresco_log_lines_lost_total",
                   "Lines of the log that could not be written: the disk is full, or nobody reads them.");
  Gauges& running = MakeGauges(registry.get(), "fresco_requests_running", "Requests that a device is working on.");
  Gauges& queue_depth = MakeGauges(registry.get(), "fresco_queue_depth", "Requests that wait.");
  Gauges& load_time =
      MakeGauges(registry.get(), "fresco_model_load_seconds", "How long a model took to load and warm up.");
  Counters& loads = MakeCounters(registry.get(), "fresco_model_loads_total", "Replicas of models that were loaded.");
  Counters& load_failures =
      MakeCounters(registry.get(), "fresco_model_load_failures_total", "Replicas of models that could not be loaded.");
  Counters& unloads =
      MakeCounters(registry.get(), "fresco_model_unloads_total",
                   "Replicas of models that were unloaded: asked for, or evicted to make room for another.");
  Counters& refusals = MakeCounters(registry.get(), "fresco_refusals_total",
                                    "Requests not taken: too much waits, or of their tenant, their deadline cannot be "
                                    "met or has passed, no device has the memory, or too many wait for models or the "
                                    "model has no room.");
  Counters& preemptions = MakeCounters(registry.get(), "fresco_preemptions_total",
                                       "Images that have left a device for host memory between two steps.");
  Counters& splits = MakeCounters(registry.get(), "fresco_batch_splits_total",
                                  "Batches that did not fit into a device's memory and went on in halves.");
  Gauges& serving = MakeGauges(registry.get(), "fresco_serving",
                               "1 while the server as a whole is SERVING to grpc.health.v1.Health, else 0.");
  Gauges& model_serving =
      MakeGauges(registry.get(), "fresco_model_serving", "1 while requests for the model are taken, else 0.");
  Gauges& draining =
      MakeGauges(registry.get(), "fresco_draining", "1 from when no new requests are taken, for good; else 0.");
  Gauges& queue_limit =
      MakeGauges(registry.get(), "fresco_queue_limit", "scheduler.max_queue: requests that may wait.");
  Gauges& class_target = MakeGauges(registry.get(), "fresco_class_target_seconds",
                                    "scheduler.classes: a request is not late before, whatever it takes.");
  Gauges& class_stretch = MakeGauges(registry.get(), "fresco_class_stretch",
                                     "scheduler.classes: nor before so many times what its images take by themselves.");
  Gauges& class_max_wait =
      MakeGauges(registry.get(), "fresco_class_max_wait_seconds", "scheduler.classes: none waits longer to start.");
  Gauges& device_memory =
      MakeGauges(registry.get(), "fresco_device_memory_capacity_bytes", "Memory that a device has.");
  Gauges& memory_budget = MakeGauges(registry.get(), "fresco_device_memory_budget_bytes",
                                     "compute.memory_budget: of models' weights on a device.");
  Gauges& total_budget =
      MakeGauges(registry.get(), "fresco_memory_budget_bytes", "memory.budget: of all that tensors take of a device.");
  Gauges& device_lost =
      MakeGauges(registry.get(), "fresco_device_lost", "1 for a device that hangs or is lost, else 0.");
  Counters& moves = MakeCounters(registry.get(), "fresco_images_moved_total",
                                 "Images that went on elsewhere because this device, which drew them, was lost.");
  Histograms& queue_wait =
      MakeHistograms(registry.get(), "fresco_queue_wait_seconds", "From a request's arrival to its start.");
  Histograms& predicted_wait = MakeHistograms(registry.get(), "fresco_predicted_queue_wait_seconds",
                                              "The same as predicted at its arrival, of requests that have started.");
  Histograms& wait_error = MakeHistograms(registry.get(), "fresco_queue_wait_error_seconds",
                                          "How far the prediction was off, to either side.");
  Histograms& request_duration = MakeHistograms(registry.get(), "fresco_request_duration_seconds",
                                                "From an accepted request's arrival to its end.");
  Histograms& stage_duration =
      MakeHistograms(registry.get(), "fresco_stage_duration_seconds",
                     "Parts of an image's way: prepare, denoise (all its steps), decode, preview, encode.");
  Histograms& step_duration =
      MakeHistograms(registry.get(), "fresco_step_duration_seconds", "One denoising step of a batch.");
  Histograms& predicted_step = MakeHistograms(registry.get(), "fresco_predicted_step_duration_seconds",
                                              "The same as predicted before it began, where something was known.");
  Histograms& step_error =
      MakeHistograms(registry.get(), "fresco_step_prediction_error_ratio",
                     "How far the prediction was off, to either side, as a share of what was predicted.");
  Counters& tenant_images = MakeCounters(registry.get(), "fresco_tenant_images_total", "Images drawn for a tenant.");
  Counters& tenant_steps =
      MakeCounters(registry.get(), "fresco_tenant_steps_total", "Denoising steps made for a tenant's images.");
  Counters& tenant_device_time = MakeCounters(registry.get(), "fresco_tenant_device_seconds_total",
                                              "A tenant's share of the devices' time, counted when a request ends.");
  Gauges& certificate_expiry = MakeGauges(registry.get(), "fresco_tls_certificate_expiry_timestamp_seconds",
                                          "When the first certificate of a file of server.tls ends, in Unix time.");
  Counters& reloads = MakeCounters(registry.get(), "fresco_reloads_total",
                                   "Changes of the files of server.tls and server.tokens: taken up, or failed, and the "
                                   "old ones stay in use.");
  Histograms& batch_size = MakeHistograms(registry.get(), "fresco_batch_size", "Images in a denoising step.");
};

Metrics::Metrics(const std::vector<std::string>& models, const std::string& version)
    : impl_(std::make_unique<Impl>(models, version)) {}
Metrics::~Metrics() = default;

void Metrics::SetLimits(const MetricsLimits& limits) {
  impl_->queue_limit.Add({}).Set(limits.max_queue);
  for (size_t i = 0; i < limits.classes.size(); ++i) {
    const prometheus::Labels labels = {{"priority", std::string(kPriorityClassNames[i])}};
    impl_->class_target.Add(labels).Set(absl::ToDoubleSeconds(limits.classes[i].target));
    impl_->class_stretch.Add(labels).Set(limits.classes[i].stretch);
    impl_->class_max_wait.Add(labels).Set(absl::ToDoubleSeconds(limits.classes[i].max_wait));
  }
  for (const auto& [device, bytes] : limits.memory_budgets)
    impl_->memory_budget.Add({{"device", device}}).Set(static_cast<double>(bytes));
  for (const auto& [device, bytes] : limits.device_budgets)
    impl_->total_budget.Add({{"device", device}}).Set(static_cast<double>(bytes));
}

void Metrics::SetServing(bool serving, bool draining, const std::vector<std::pair<std::string, bool>>& models) {
  impl_->serving.Add({}).Set(serving ? 1 : 0);
  impl_->draining.Add({}).Set(draining ? 1 : 0);
  for (const auto& [model, served] : models)
    impl_->model_serving.Add({{"model", impl_->Label(model)}}).Set(served ? 1 : 0);
}

void Metrics::Announce(const std::string& model, const std::string& device) {
  const prometheus::Labels labels = {{"model", impl_->Label(model)}, {"device", device}};
  for (Counters* counters : {&impl_->preemptions, &impl_->splits, &impl_->moves}) counters->Add(labels);
  impl_->device_lost.Add({{"device", device}});
}

void Metrics::AddEngine(const std::shared_ptr<const Engine>& engine, absl::Duration load_time) {
  const ModelInfo& info = engine->info();
  impl_->load_time.Add({{"model", impl_->Label(info.name)}, {"device", info.device}})
      .Set(absl::ToDoubleSeconds(load_time));
  Announce(info.name, info.device);
  impl_->loads.Add({{"model", impl_->Label(info.name)}}).Increment();
  impl_->engines->Add(engine);
}

void Metrics::RemoveEngine(const Engine& engine, bool evicted) {
  const std::string reason(kUnloadReasons[evicted ? 1 : 0]);
  impl_->unloads.Add({{"model", impl_->Label(engine.info().name)}, {"reason", reason}}).Increment();
  impl_->engines->Remove(engine);
}

void Metrics::CountLoadFailure(const std::string& model) {
  impl_->load_failures.Add({{"model", impl_->Label(model)}}).Increment();
}

void Metrics::CountRequest(const std::string& model, const std::string& code) {
  impl_->requests.Add({{"model", impl_->Label(model)}, {"code", code}}).Increment();
}

void Metrics::NameTenants(const std::vector<std::string>& tenants) {
  for (const std::string& tenant : tenants) {
    impl_->AddTenant(tenant);
    MutexLock lock(&impl_->tenants_mutex);
    impl_->tenants.insert(tenant);
  }
}

void Metrics::SetCertificateExpiry(const std::string& file, absl::Time not_after) {
  impl_->certificate_expiry.Add({{"file", file}}).Set(absl::ToDoubleSeconds(not_after - absl::UnixEpoch()));
}

void Metrics::CountReload(const std::string& setting, bool ok) {
  impl_->reloads.Add({{"setting", setting}, {"outcome", kReloadOutcomes[ok ? 1 : 0]}}).Increment();
}

void Metrics::CountJoined(const std::string& model) {
  impl_->joined.Add({{"model", impl_->Label(model)}}).Increment();
}

void Metrics::CountResultServed(const std::string& model) {
  impl_->served.Add({{"model", impl_->Label(model)}}).Increment();
}

void Metrics::SetResultsHeld(int64_t bytes) {
  impl_->results_held.Add({}).Set(static_cast<double>(bytes));
}

void Metrics::CountConnectionEnded() {
  impl_->connections_ended.Add({}).Increment();
}

void Metrics::CountLostLogLine() {
  impl_->lost_log_lines.Add({}).Increment();
}

void Metrics::OnQueueDepth(const std::string& model, const std::string& priority, int depth) {
  impl_->queue_depth.Add({{"model", impl_->Label(model)}, {"priority", priority}}).Set(depth);
}

void Metrics::OnRequestsRunning(int running) {
  impl_->running.Add({}).Set(running);
}

void Metrics::OnQueueWait(const std::string& model, const std::string& priority, absl::Duration wait,
                          absl::Duration predicted) {
  const prometheus::Labels labels = {{"model", impl_->Label(model)}, {"priority", priority}};
  impl_->Observe(&impl_->queue_wait, labels, wait);
  impl_->Observe(&impl_->predicted_wait, labels, predicted);
  impl_->Observe(&impl_->wait_error, labels, absl::AbsDuration(wait - predicted));
}

void Metrics::OnRefused(const std::string& model, const std::string& reason) {
  impl_->refusals.Add({{"model", impl_->Label(model)}, {"reason", reason}}).Increment();
}

void Metrics::OnPreempted(const std::string& model, const std::string& device) {
  impl_->preemptions.Add({{"model", impl_->Label(model)}, {"device", device}}).Increment();
}

void Metrics::OnBatchSplit(const std::string& model, const std::string& device) {
  impl_->splits.Add({{"model", impl_->Label(model)}, {"device", device}}).Increment();
}

void Metrics::OnDeviceMemory(const std::string& device, int64_t total_bytes) {
  impl_->device_memory.Add({{"device", device}}).Set(static_cast<double>(total_bytes));
}

void Metrics::OnDeviceLost(const std::string& device, const std::string& /*reason*/) {
  impl_->device_lost.Add({{"device", device}}).Set(1);
  // Its engines might keep a scrape waiting for ever.
  impl_->engines->RemoveDevice(device);
}

void Metrics::OnImageMoved(const std::string& model, const std::string& device) {
  impl_->moves.Add({{"model", impl_->Label(model)}, {"device", device}}).Increment();
}

void Metrics::OnStage(const std::string& model, const std::string& stage, absl::Duration duration) {
  impl_->Observe(&impl_->stage_duration, {{"model", impl_->Label(model)}, {"stage", stage}}, duration);
}

void Metrics::OnStep(const std::string& model, const std::string& device, int batch_size, absl::Duration duration) {
  const prometheus::Labels labels = {{"model", impl_->Label(model)}, {"device", device}};
  impl_->Observe(&impl_->step_duration, labels, duration);
  impl_->batch_size.Add(labels, BatchBuckets()).Observe(batch_size);
}

void Metrics::OnStepPredicted(const std::string& model, const std::string& device, absl::Duration predicted,
                              absl::Duration duration) {
  const prometheus::Labels labels = {{"model", impl_->Label(model)}, {"device", device}};
  impl_->Observe(&impl_->predicted_step, labels, predicted);
  const double error = absl::FDivDuration(absl::AbsDuration(duration - predicted), predicted);
  impl_->step_error.Add(labels, ErrorBuckets()).Observe(error);
}

void Metrics::OnImage(const std::string& model) {
  impl_->images.Add({{"model", impl_->Label(model)}}).Increment();
}

void Metrics::OnRequestDone(const std::string& /*id*/, const std::string& model, const absl::Status& /*status*/,
                            absl::Duration duration) {
  impl_->Observe(&impl_->request_duration, {{"model", impl_->Label(model)}}, duration);
}

void Metrics::OnUsage(const std::string& tenant, const Usage& usage) {
  const prometheus::Labels labels = {{"tenant", impl_->TenantLabel(tenant)}};
  impl_->tenant_images.Add(labels).Increment(usage.images);
  impl_->tenant_steps.Add(labels).Increment(static_cast<double>(usage.steps));
  impl_->tenant_device_time.Add(labels).Increment(absl::ToDoubleSeconds(usage.device_time));
}

std::string Metrics::Text() const {
  std::vector<prometheus::MetricFamily> all;
  for (const prometheus::Collectable* source : std::initializer_list<const prometheus::Collectable*>{
           impl_->registry.get(), impl_->engines.get(), impl_->process.get()}) {
    const std::vector<prometheus::MetricFamily> families = source->Collect();
    all.insert(all.end(), families.begin(), families.end());
  }
  return prometheus::TextSerializer().Serialize(all);
}

class MetricsServer::Impl {
 public:
  // civetweb's options (its docs/UserManual.md). A connection that asks for nothing holds a thread until the time-out,
  // and must not keep Prometheus from getting one.
  explicit Impl(const std::string& address)
      : exposer(std::vector<std::string>{"listening_ports", address, "num_threads", "8", "request_timeout_ms", "2000",
                                         "enable_keep_alive", "no"}) {}
  prometheus::Exposer exposer;
};

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address, Metrics* metrics) {
  // The HTTP server inside takes IP addresses, not names.
  const std::string numeric = address.starts_with("localhost:") ? StrCat("127.0.0.1", address.substr(9)) : address;
  try {
    auto impl = std::make_unique<Impl>(numeric);
    impl->exposer.RegisterCollectable(metrics->impl_->registry);
    impl->exposer.RegisterCollectable(metrics->impl_->engines);
    impl->exposer.RegisterCollectable(metrics->impl_->process);
    const std::vector<int> ports = impl->exposer.GetListeningPorts();
    if (ports.empty()) return absl::UnavailableError(StrCat("metrics: cannot listen on ", address));
    return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(impl), ports.front()));
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        StrCat("metrics: cannot listen on ", address, ": is the port taken, or the host not this machine's?"));
  }
}

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl, int port) : impl_(std::move(impl)), port_(port) {}
MetricsServer::~MetricsServer() = default;

}  // namespace fresco
