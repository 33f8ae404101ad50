#include "pipeline/precision/saturation.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace fresco {
namespace {

// Of this thread; null: there is none.
thread_local SaturationTally* current_tally = nullptr;

void AddTo(SaturationCount::Activations* sum, const SaturationCount::Activations& more) {
  sum->saturated += more.saturated;
  sum->guarded += more.guarded;
  sum->elements += more.elements;
}

}  // namespace

SaturationTally::SaturationTally(const SaturationCount* count)
    : count_(count), before_(std::exchange(current_tally, this)) {}

SaturationTally::~SaturationTally() {
  current_tally = before_;
}

void SaturationCount::Add(std::string_view layer, const Activations& activations) {
  if (current_tally != nullptr && current_tally->count_ == this)
    current_tally->elements_[std::string(layer)] += activations.elements;
  const MutexLock lock(&mutex_);
  auto found = layers_.find(layer);
  if (found == layers_.end()) found = layers_.emplace(layer, Activations()).first;
  AddTo(&found->second, activations);
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
