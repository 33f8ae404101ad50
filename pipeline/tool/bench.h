// `fresco-model bench`: how long one denoising step takes.
#pragma once

#include <string>

#include "pipeline/tool/options.h"

namespace fresco {

struct BenchOptions {
  std::string preset;  // a known shape with random weights, instead of a model
  int layers = 0;      // of the preset; 0: all
  int width = 0;       // pixels; 0: the model's default, 1024 with a preset
  int height = 0;
  int batch = 1;          // images
  float guidance = 4.5f;  // above 1: two samples per image
  int text_tokens = 333;  // 77 of CLIP, 256 of T5
  int steps = 10;         // measured
  int recorded = 3;       // steps after these, for what each layer takes; 0: that is not asked
  int top = 10;           // layers to print, the longest; 0: all, in order of computation
  std::string beside;     // another precision, whose steps take turns with these; or empty
};

// Steps `batch` images of random texts through the transformer alone, as the engine does, and prints the median.
// --json: device, precision, width, height, batch, guidance, step_seconds, steps_measured, weight_bytes (the
// transformer's, without the position table), peak_memory_bytes (while stepping, nothing beside); with `beside`
// `beside.precision`, `.step_seconds` and `.speed`: how many times as fast the first is, the median over pairs of steps
// that followed each other, so that a machine whose speed changes changes both. Of the recorded steps: `kinds`,
// `layers` and `gaps` (LayersJson), the device's limits (LimitsJson), `between_layers_share` (of a recorded step, on a
// GPU kernels that are of no layer) and, on a GPU, `idle_share`: of step_seconds, the time without a kernel. Returns an
// exit code; errors go to standard error.
int RunBench(const ModelOptions& model, const BenchOptions& options);

}  // namespace fresco
