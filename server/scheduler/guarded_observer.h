// Passes everything on to another observer, whose exceptions end here: who only measures breaks nothing.
#pragma once

#include <string>

#include "server/scheduler/guarded.h"
#include "server/scheduler/observer.h"

namespace fresco {

// Thread-safe as what it passes to.
class GuardedObserver final : public SchedulerObserver {
 public:
  // May be null: nobody. Outlives this.
  explicit GuardedObserver(SchedulerObserver* to) : to_(to) {}

  void OnQueueDepth(const std::string& model, const std::string& priority, int depth) override {
    Tell([&] { to_->OnQueueDepth(model, priority, depth); });
  }
  void OnRequestsRunning(int running) override {
    Tell([&] { to_->OnRequestsRunning(running); });
  }
  void OnQueueWait(const std::string& model, const std::string& priority, absl::Duration wait,
                   absl::Duration predicted) override {
    Tell([&] { to_->OnQueueWait(model, priority, wait, predicted); });
  }
  void OnRefused(const std::string& model, const std::string& reason) override {
    Tell([&] { to_->OnRefused(model, reason); });
  }
  void OnPreempted(const std::string& model, const std::string& device) override {
    Tell([&] { to_->OnPreempted(model, device); });
  }
  void OnBatchSplit(const std::string& model, const std::string& device) override {
    Tell([&] { to_->OnBatchSplit(model, device); });
  }
  void OnDeviceMemory(const std::string& device, int64_t total_bytes) override {
    Tell([&] { to_->OnDeviceMemory(device, total_bytes); });
  }
  void OnDeviceLost(const std::string& device, const std::string& reason) override {
    Tell([&] { to_->OnDeviceLost(device, reason); });
  }
  void OnImageMoved(const std::string& model, const std::string& device) override {
    Tell([&] { to_->OnImageMoved(model, device); });
  }
  void OnStage(const std::string& model, const std::string& stage, absl::Duration duration) override {
    Tell([&] { to_->OnStage(model, stage, duration); });
  }
  void OnStep(const std::string& model, const std::string& device, int batch_size, absl::Duration duration) override {
    Tell([&] { to_->OnStep(model, device, batch_size, duration); });
  }
  void OnStepPredicted(const std::string& model, const std::string& device, absl::Duration predicted,
                       absl::Duration duration) override {
    Tell([&] { to_->OnStepPredicted(model, device, predicted, duration); });
  }
  void OnImage(const std::string& model) override {
    Tell([&] { to_->OnImage(model); });
  }
  void OnUsage(const std::string& tenant, const Usage& usage) override {
    Tell([&] { to_->OnUsage(tenant, usage); });
  }
  void OnRequestDone(const std::string& id, const std::string& model, const absl::Status& status,
                     absl::Duration duration) override {
    Tell([&] { to_->OnRequestDone(id, model, status, duration); });
  }

 private:
  template <typename Call>
  void Tell(const Call& call) const {
    if (to_ != nullptr) GuardedVoid("the observer", call).IgnoreError();
  }

  SchedulerObserver* const to_;
};

}  // namespace fresco
