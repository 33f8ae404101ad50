// Which type a model computes in.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace fresco {

struct Precision {
  at::ScalarType type = at::kFloat;
  std::string name;    // "fp32", "bf16", "fp16"
  std::string reason;  // why `auto` chose it; empty where it was asked for
};

// `asked`: fp32 | bf16 | fp16 | auto. `auto` is bf16 on CUDA and on a CPU that multiplies bf16 in hardware, else fp32.
// INVALID_ARGUMENT for an unknown name, UNIMPLEMENTED for one that this build cannot compute yet.
absl::StatusOr<Precision> ChoosePrecision(std::string_view asked, const at::Device& device);

}  // namespace fresco
