// How many activations were beyond what their type can hold, layer by layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/base/mutex.h"

namespace fresco {

// Thread-safe.
class SaturationCount {
 public:
  struct Layer {
    std::string name;
    int64_t saturated = 0;  // activations that were clamped, or NaN
    int64_t elements = 0;   // all that were looked at
  };

  // One input of a layer: `saturated` of its `elements`.
  void Add(std::string_view layer, int64_t saturated, int64_t elements);

  // Over all layers; the name is empty.
  Layer Total() const;

  // The layers of which activations saturated, the one with most first (of equals, in the order of their names), at
  // most `limit`.
  std::vector<Layer> Worst(size_t limit) const;

 private:
  struct Counts {
    int64_t saturated = 0;
    int64_t elements = 0;
  };
  mutable Mutex mutex_;
  std::map<std::string, Counts, std::less<>> layers_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
