// The file of rounded weights (docs/CALIBRATION.md, "Rounding").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "pipeline/precision/weight_rounding.h"

namespace fresco {

// Linears computed as one: their names in the checkpoint, how many of the rows are each one's, and the rows.
struct RoundedLinear {
  std::vector<std::string> layers;
  std::vector<int64_t> outputs;
  RoundedWeight rounded;
};

// Each layer X as X.weight (codes), X.weight_scale (one per row), X.bias and, for int8,
// X.input_multiplier, in a safetensors file that says that `run`
// made it. Replaces a file that is there; whole or not at all.
absl::Status WriteRoundedWeights(const std::vector<RoundedLinear>& linears, const std::string& run,
                                 const std::string& path);

// Whether `path` is a file that `run` made.
bool IsRoundedBy(const std::string& run, const std::string& path);

}  // namespace fresco
