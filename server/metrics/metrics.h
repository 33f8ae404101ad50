// Fresco's Prometheus metrics (the list in docs/CONFIGURATION.md), fed by the scheduler's observer, the
// rpc layer, and, at every scrape, the engines' own counters and /proc/self. The set of label values is fixed by the
// models that are announced: whatever a client sends makes no new time series.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/observer.h"

namespace fresco {

// Thread-safe.
class Metrics final : public SchedulerObserver {
 public:
  // `models`: the configured names; any other is counted as "(unknown)". `version`: for build_info.
  Metrics(const std::vector<std::string>& models, const std::string& version);
  ~Metrics() override;

  // One replica of a model is ready: its stats() are read at every scrape, as long as somebody else holds it.
  void AddEngine(const std::shared_ptr<const Engine>& engine, absl::Duration load_time);
  // It is about to go, to make room for another where `evicted`.
  void RemoveEngine(const Engine& engine, bool evicted);
  // A model could not be loaded.
  void CountLoadFailure(const std::string& model);
  // A call has ended, refused ones too. `code` is gRPC's name of it: "OK", "NOT_FOUND".
  void CountRequest(const std::string& model, const std::string& code);

  void OnQueueDepth(const std::string& model, const std::string& priority, int depth) override;
  void OnRequestsRunning(int running) override;
  void OnQueueWait(const std::string& model, const std::string& priority, absl::Duration wait,
                   absl::Duration predicted) override;
  void OnRefused(const std::string& model, const std::string& reason) override;
  void OnPreempted(const std::string& model, const std::string& device) override;
  void OnBatchSplit(const std::string& model, const std::string& device) override;
  void OnDeviceLost(const std::string& device, const std::string& reason) override;
  void OnImageMoved(const std::string& model, const std::string& device) override;
  void OnStage(const std::string& model, const std::string& stage, absl::Duration duration) override;
  void OnStep(const std::string& model, const std::string& device, int batch_size, absl::Duration duration) override;
  void OnStepPredicted(const std::string& model, const std::string& device, absl::Duration predicted,
                       absl::Duration duration) override;
  void OnImage(const std::string& model) override;
  void OnRequestDone(const std::string& id, const std::string& model, const absl::Status& status,
                     absl::Duration duration) override;

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
