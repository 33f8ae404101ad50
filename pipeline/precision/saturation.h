// How many activations were beyond what their type can hold, layer by layer: clamped, or kept by an overflow guard.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/base/mutex.h"

namespace fresco {

class DeviceCounters;  // device_counters.h, which knows tensors

// Thread-safe.
class SaturationCount {
 public:
  struct Activations {
    int64_t saturated = 0;  // were clamped, or NaN
    int64_t guarded = 0;    // would have been, but for the guard's scale
    int64_t elements = 0;   // all that were looked at
  };
  struct Layer {
    std::string name;
    Activations activations;
  };

  // Where layers on a GPU keep what they count until somebody reads it (DeviceCounters::Settle, into this). Without it
  // each tells at once, and waits for the GPU. Set before there are layers.
  void CountOnDevice(std::shared_ptr<DeviceCounters> counters) { device_counters_ = std::move(counters); }
  DeviceCounters* device_counters() const { return device_counters_.get(); }

  // One input of a layer.
  void Add(std::string_view layer, const Activations& activations);

  // Over all layers.
  Activations Total() const;

  // The layers of which activations saturated or were guarded: the one with most saturated first, of equals the one
  // with most guarded, of equals in the order of their names; at most `limit`.
  std::vector<Layer> Worst(size_t limit) const;

 private:
  std::shared_ptr<DeviceCounters> device_counters_;

  mutable Mutex mutex_;
  std::map<std::string, Activations, std::less<>> layers_ FRESCO_GUARDED_BY(mutex_);
};

// While it lives, what layers tell `count` on the calling thread is here too, whatever other threads tell it. Of a
// thread the innermost one alone.
class SaturationTally {
 public:
  // By layer, activations that were looked at.
  using Elements = std::map<std::string, int64_t, std::less<>>;

  explicit SaturationTally(const SaturationCount* count);  // null: nothing is told
  ~SaturationTally();
  SaturationTally(const SaturationTally&) = delete;
  SaturationTally& operator=(const SaturationTally&) = delete;

  const Elements& elements() const { return elements_; }

 private:
  friend class SaturationCount;

  const SaturationCount* const count_;
  SaturationTally* const before_;
  Elements elements_;
};

}  // namespace fresco
