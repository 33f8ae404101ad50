// The standard process_* metrics of Prometheus's client libraries, read from /proc/self.
#pragma once

#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace fresco {

class ProcessMetrics final : public prometheus::Collectable {
 public:
  // Empty where there is no /proc.
  std::vector<prometheus::MetricFamily> Collect() const override;
};

}  // namespace fresco
