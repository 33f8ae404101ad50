// Counts that a GPU keeps: its kernels add to them, and nothing waits for what they are until somebody reads all of
// them at once.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/base/mutex.h"
#include "pipeline/precision/saturation.h"

namespace fresco {

// Of one model's layers, on one device. Thread-safe.
class DeviceCounters {
 public:
  // The layer's counter, [1] kLong, which exists as long as this does: the activations that saturate are added to it,
  // in any stream, by atomic additions. A new one is 0 when the device has done what it has been given.
  at::Tensor Of(std::string_view layer, const at::Device& device);

  // All counters as the current stream finds them, [n] kLong, in the order in which they were added; undefined where
  // there are none.
  at::Tensor Read() const;

  // `values`: what Read has given, on the host. Tells `count` of what has come since the last call. Readings may be
  // taken in any order, and more than once.
  void Settle(const at::Tensor& values, SaturationCount* count);

 private:
  struct Counter {
    std::string layer;
    at::Tensor value;
    int64_t told = 0;
  };
  mutable Mutex mutex_;
  std::vector<Counter> counters_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
