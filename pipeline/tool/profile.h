// `fresco-model profile`: where a model's time goes, layer by layer.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "pipeline/tool/options.h"

namespace fresco {

struct ProfileOptions {
  std::string preset;  // a known shape with random weights, of which the transformer alone is measured
  int layers = 0;      // of the preset; 0: all
  int batch = 1;       // images
  int top = 20;        // layers to print, the longest; 0: all, in order of computation
  std::string trace;   // file for Chrome's trace of all that was recorded; empty: none
};

// Draws `batch` pictures of draw's prompt and prints, for each stage of it, what its layers take (ProfileReport).
// draw.steps (5 where it is unset) are recorded; as many are measured without the profiler, in turns with them.
// INVALID_ARGUMENT for options that do not go together.
absl::Status RunProfile(const ModelOptions& model, const DrawOptions& draw, const ProfileOptions& options);

}  // namespace fresco
