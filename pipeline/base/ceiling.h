// Division that rounds up.
#pragma once

#include <cstdint>

namespace fresco {

// value >= 0, divisor > 0.
constexpr int64_t CeilingOf(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

}  // namespace fresco
