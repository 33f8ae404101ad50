#include "pipeline/precision/saturation.h"

#include <algorithm>
#include <tuple>

namespace fresco {
namespace {

void AddTo(SaturationCount::Activations* sum, const SaturationCount::Activations& more) {
  sum->saturated += more.saturated;
  sum->guarded += more.guarded;
  sum->elements += more.elements;
}

}  // namespace

void SaturationCount::Add(std::string_view layer, const Activations& activations) {
  const MutexLock lock(&mutex_);
  auto found = layers_.find(layer);
  if (found == layers_.end()) found = layers_.emplace(layer, Activations()).first;
  AddTo(&found->second, activations);
}

std::map<std::string, int64_t, std::less<>> SaturationCount::Elements() const {
  const MutexLock lock(&mutex_);
  std::map<std::string, int64_t, std::less<>> elements;
  for (const auto& [name, activations] : layers_) elements[name] = activations.elements;
  return elements;
}

SaturationCount::Activations SaturationCount::Total() const {
  const MutexLock lock(&mutex_);
  Activations total;
  for (const auto& [name, activations] : layers_) AddTo(&total, activations);
  return total;
}

std::vector<SaturationCount::Layer> SaturationCount::Worst(size_t limit) const {
  std::vector<Layer> worst;
  {
    const MutexLock lock(&mutex_);
    for (const auto& [name, activations] : layers_) {
      if (activations.saturated > 0 || activations.guarded > 0) worst.push_back({name, activations});
    }
  }
  const auto key = [](const Layer& layer) { return std::tie(layer.activations.saturated, layer.activations.guarded); };
  std::stable_sort(worst.begin(), worst.end(), [&](const Layer& a, const Layer& b) { return key(a) > key(b); });
  if (worst.size() > limit) worst.resize(limit);
  return worst;
}

}  // namespace fresco
