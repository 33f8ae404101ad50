// What the engines count themselves, read at every scrape.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/mutex.h"
#include "pipeline/engine/engine.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace fresco {

// Thread-safe.
class EngineMetrics final : public prometheus::Collectable {
 public:
  // It is read as long as somebody else holds it.
  void Add(const std::shared_ptr<const Engine>& engine);
  // It is about to go: what it has counted stays.
  void Remove(const Engine& engine);
  // All of a device that is lost.
  void RemoveDevice(const std::string& device);
  // Reads info() and stats() of every engine.
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  // What engines of a model that are no more have counted; no more than what a scrape shows.
  using Gone = std::map<std::string, EngineStats>;
  static void Count(const EngineStats& stats, EngineStats* sum);

  mutable Mutex mutex_;
  std::vector<std::weak_ptr<const Engine>> engines_ FRESCO_GUARDED_BY(mutex_);
  Gone gone_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
