// `fresco-model inspect`: what is in a checkpoint.
#pragma once

#include "absl/status/status.h"
#include "pipeline/tool/options.h"

namespace fresco {

// Prints every tensor of every part. --json: `tensors`, a list of name ("transformer/proj_out.weight"), dtype (as the
// file calls it), shape, bytes, device (where it would be computed with), and `parts` with name, path, parameters and
// bytes.
absl::Status RunInspect(const ModelOptions& options);

}  // namespace fresco
