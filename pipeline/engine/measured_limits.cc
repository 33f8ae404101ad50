#include "pipeline/engine/measured_limits.h"

namespace fresco {

LeastTimes LeastTimesOf(const LayerTime& layer, const MeasuredLimits& limits) {
  const auto peak = limits.peaks.find(layer.dtype);
  LeastTimes least;
  if (peak != limits.peaks.end() && peak->second > 0) least.products = static_cast<double>(layer.flops) / peak->second;
  if (limits.bandwidth > 0) least.memory = static_cast<double>(layer.bytes) / limits.bandwidth;
  return least;
}

}  // namespace fresco
