// The standard process_* metrics of Prometheus's client libraries, read from /proc/self, and the heap.
#pragma once

#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace fresco {

class ProcessMetrics final : public prometheus::Collectable {
 public:
  // The heap alone where /proc cannot be read.
  std::vector<prometheus::MetricFamily> Collect() const override;
};

}  // namespace fresco
