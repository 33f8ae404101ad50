// `fresco-model inspect`: what is in a checkpoint.
#pragma once

#include "absl/status/status.h"
#include "pipeline/tool/options.h"

namespace fresco {

// Prints every tensor of every part, and how linears and embeddings are stored. --json: `tensors`, a list of name
// ("transformer/proj_out.weight"; of a single file, as it is there), dtype (as the file calls it), shape, bytes, device
// (where it would be computed with), and `parts` with name ("(not used)": what no part of a single file's model has),
// path, parameters, bytes, stored (how many weights in which format), and, where some cannot be read, unreadable (how
// many) and first_error.
absl::Status RunInspect(const ModelOptions& options);

}  // namespace fresco
