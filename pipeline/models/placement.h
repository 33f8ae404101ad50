// Where a model's weights lie and what it computes in.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace fresco {

struct Placement {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // kFloat, kBFloat16 or kHalf
};

}  // namespace fresco
