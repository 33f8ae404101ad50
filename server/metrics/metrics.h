// Fresco's Prometheus metrics (the list in docs/CONFIGURATION.md), fed by the scheduler's observer, the
// rpc layer, and, at every scrape, the engines' own counters and /proc/self. The set of label values is fixed by the
// models that are announced: whatever a client sends makes no new time series.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/observer.h"
#include "server/scheduler/policy/scheduling_core.h"

namespace fresco {

// What is configured, for alerts to compare with.
struct MetricsLimits {
  int max_queue = 0;                                   // requests
  std::array<ClassOptions, kPriorityClasses> classes;  // by priority
  std::map<std::string, int64_t> memory_budgets;       // bytes of models' weights, by device
  std::map<std::string, int64_t> device_budgets = {};  // bytes of all tensors, by device
};

// Thread-safe.
class Metrics final : public SchedulerObserver {
 public:
  // `models`: the configured names; any other is counted as "(unknown)". `version`: for build_info.
  Metrics(const std::vector<std::string>& models, const std::string& version);
  ~Metrics() override;

  // Call it once, before anything is counted.
  void SetLimits(const MetricsLimits& limits);
  // What health says: of the server as a whole, whether it takes no more requests, and of each model.
  void SetServing(bool serving, bool draining, const std::vector<std::pair<std::string, bool>>& models);
  // There may be a replica of the model on the device: what it counts is shown as nothing from now on.
  void Announce(const std::string& model, const std::string& device);
  // One replica of a model is ready: its stats() are read at every scrape, as long as somebody else holds it.
  void AddEngine(const std::shared_ptr<const Engine>& engine, absl::Duration load_time);
  // It is about to go, to make room for another where `evicted`.
  void RemoveEngine(const Engine& engine, bool evicted);
  // A model could not be loaded.
  void CountLoadFailure(const std::string& model);
  // A call has ended, refused ones too. `code` is gRPC's name of it: "OK", "NOT_FOUND".
  void CountRequest(const std::string& model, const std::string& code);
  // A call has joined a request that runs already.
  void CountJoined(const std::string& model);
  // A call has been given what was drawn for an earlier one.
  void CountResultServed(const std::string& model);
  // Bytes held of what has been drawn, for calls that may ask for it again.
  void SetResultsHeld(int64_t bytes);

  // The tenants that have series of their own from now on, and keep them; any other is counted as "(other)", requests
  // that name none as "(none)".
  void NameTenants(const std::vector<std::string>& tenants);
  // When the first of a file's certificates ends. `file`: the setting that names it.
  void SetCertificateExpiry(const std::string& file, absl::Time not_after);
  // Files of a setting ("tls", "tokens") have changed and were taken up, or, where not `ok`, the old ones stay in use.
  void CountReload(const std::string& setting, bool ok);
  // A connection was ended, whose caller began calls and gave them up without end.
  void CountConnectionEnded();
  // A line of the log could not be written.
  void CountLostLogLine();

  void OnQueueDepth(const std::string& model, const std::string& priority, int depth) override;
  void OnRequestsRunning(int running) override;
  void OnQueueWait(const std::string& model, const std::string& priority, absl::Duration wait,
                   absl::Duration predicted) override;
  void OnRefused(const std::string& model, const std::string& reason) override;
  void OnPreempted(const std::string& model, const std::string& device) override;
  void OnBatchSplit(const std::string& model, const std::string& device) override;
  void OnDeviceMemory(const std::string& device, int64_t total_bytes) override;
  void OnDeviceLost(const std::string& device, const std::string& reason) override;
  void OnImageMoved(const std::string& model, const std::string& device) override;
  void OnStage(const std::string& model, const std::string& stage, absl::Duration duration) override;
  void OnStep(const std::string& model, const std::string& device, int batch_size, absl::Duration duration) override;
  void OnStepPredicted(const std::string& model, const std::string& device, absl::Duration predicted,
                       absl::Duration duration) override;
  void OnImage(const std::string& model) override;
  void OnRequestDone(const std::string& id, const std::string& model, const absl::Status& status,
                     absl::Duration duration) override;
  void OnUsage(const std::string& tenant, const Usage& usage) override;

  // All metrics in Prometheus's text format, as a scrape gets them.
  std::string Text() const;

 private:
  friend class MetricsServer;
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

// Answers GET /metrics until it is destroyed.
class MetricsServer {
 public:
  // Listens on host:port (0: any free one), where host is an IP address or localhost. UNAVAILABLE if it cannot.
  // `metrics` outlives it.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address, Metrics* metrics);
  ~MetricsServer();

  int port() const { return port_; }

 private:
  class Impl;
  MetricsServer(std::unique_ptr<Impl> impl, int port);
  const std::unique_ptr<Impl> impl_;
  const int port_;
};

}  // namespace fresco
