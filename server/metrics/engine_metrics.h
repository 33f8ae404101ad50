// What the engines count themselves, read at every scrape.
#pragma once

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
  // `engine` outlives the last Collect().
  void Add(const Engine* engine);
  // All of the device's.
  void Remove(const std::string& device);
  // Reads info() and stats() of every engine.
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  mutable Mutex mutex_;
  std::vector<const Engine*> engines_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
