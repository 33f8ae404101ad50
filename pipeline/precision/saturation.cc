#include "pipeline/precision/saturation.h"

#include <algorithm>

namespace fresco {

void SaturationCount::Add(std::string_view layer, int64_t saturated, int64_t elements) {
  const MutexLock lock(&mutex_);
  auto found = layers_.find(layer);
  if (found == layers_.end()) found = layers_.emplace(layer, Counts()).first;
  found->second.saturated += saturated;
  found->second.elements += elements;
}

SaturationCount::Layer SaturationCount::Total() const {
  const MutexLock lock(&mutex_);
  Layer total;
  for (const auto& [name, counts] : layers_) {
    total.saturated += counts.saturated;
    total.elements += counts.elements;
  }
  return total;
}

std::vector<SaturationCount::Layer> SaturationCount::Worst(size_t limit) const {
  std::vector<Layer> worst;
  {
    const MutexLock lock(&mutex_);
    for (const auto& [name, counts] : layers_) {
      if (counts.saturated > 0) worst.push_back({name, counts.saturated, counts.elements});
    }
  }
  std::stable_sort(worst.begin(), worst.end(),
                   [](const Layer& a, const Layer& b) { return a.saturated > b.saturated; });
  if (worst.size() > limit) worst.resize(limit);
  return worst;
}

}  // namespace fresco
