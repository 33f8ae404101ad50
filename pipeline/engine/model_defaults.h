// A model folder's own defaults: the optional `fresco.yaml` in it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/precision/layer_table.h"

namespace fresco {

// What the file says; what it leaves out comes from the model's shape or the library.
struct ModelDefaults {
  std::optional<int> steps;
  std::optional<float> guidance_scale;
  std::optional<int> width;                  // pixels
  std::optional<int> height;                 // pixels
  std::optional<int> max_sequence_length;    // T5 tokens
  std::optional<AttentionScheme> attention;  // of precision fp8
  std::vector<LayerTable::Rule> layers;      // exceptions from a precision's table, in the file's order
};

// A file that is not there gives no defaults. INVALID_ARGUMENT, as "FILE:LINE: KEY: …", for an unknown key, a wrong
// type or an impossible value.
absl::StatusOr<ModelDefaults> ReadModelDefaults(const std::string& path);

}  // namespace fresco
