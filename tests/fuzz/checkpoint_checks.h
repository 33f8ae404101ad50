// What holds of every checkpoint that has been opened, whatever bytes it was opened from.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "pipeline/checkpoint/stored_weight.h"
#include "pipeline/checkpoint/weights.h"

namespace fresco::fuzz {

// Every tensor is found with as many bytes as its type and shape take, all of which can be read; or it is of a type
// that is not known, and that is said with `path`, where the store is.
void CheckStore(const WeightStore& store, const std::string& path);

// Every linear's weight can be understood, with scales that are numbers, or is refused with `path` in the message.
void CheckStoredWeights(const WeightStore& store, const std::string& path);

}  // namespace fresco::fuzz
