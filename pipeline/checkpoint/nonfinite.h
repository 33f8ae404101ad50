// Looks for weights that are no numbers.
#pragma once

#include <optional>
#include <string>

#include "pipeline/checkpoint/safetensors.h"
#include "pipeline/checkpoint/weights.h"

namespace fresco {

// Whether a value of the tensor is NaN or infinite. False for integers and booleans.
bool HasNonFinite(const TensorView& tensor);

// The first tensor, by name, that has one; nothing: there is none. Reads everything but types that are not known.
std::optional<std::string> FirstNonFinite(const WeightStore& weights);

}  // namespace fresco
