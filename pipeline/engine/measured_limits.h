// What a device could do at most, and how long a layer would take if nothing else held it up. Torch-free.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "pipeline/engine/layer_times.h"

namespace fresco {

// Measured, in the run that layers are compared with (profiler.h).
struct MeasuredLimits {
  std::map<std::string, double> peaks;  // operations a second, by dtype; one that is not there is not known
  double bandwidth = 0;                 // bytes a second of its memory, read and written; 0: not known
};

// How long work would take if nothing but one of the device's limits held it up; 0: there is none of it, or the limit
// is not known.
struct LeastTimes {
  double products = 0, memory = 0;  // seconds

  // Which of both takes longer: "compute", "memory"; empty: there is neither.
  std::string_view bound() const {
    if (products <= 0 && memory <= 0) return "";
    return products > memory ? "compute" : "memory";
  }
};

// Of a layer in one call.
LeastTimes LeastTimesOf(const LayerTime& layer, const MeasuredLimits& limits);

}  // namespace fresco
