// Looks for weights that are no numbers.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "pipeline/checkpoint/safetensors.h"
#include "pipeline/checkpoint/weights.h"

namespace fresco {

// Whether a value of the tensor is NaN or infinite. False for integers and booleans.
bool HasNonFinite(const TensorView& tensor);

// The first tensor, by name, that has one; nothing: there is none. Reads everything. Errors as WeightStore::Find.
absl::StatusOr<std::optional<std::string>> FirstNonFinite(const WeightStore& weights);

}  // namespace fresco
