// `fresco-model inspect`: what is in a checkpoint.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "pipeline/tool/options.h"

namespace fresco {

struct InspectOptions {
  int depth = 3;         // levels of modules below a part that are shown; 0: all
  bool tensors = false;  // a list of tensors in the place of the tree
  std::string html;      // page to write; empty: none
};

// Prints the tree of modules, equal blocks once, or every tensor, and how linears and embeddings are stored. --json:
// `modules`, the tree (ModulesJson), whole; `tensors`, a list of name ("transformer/proj_out.weight"; of a single file,
// as it is there), dtype (as the file calls it), shape, bytes, device (where it would be computed with), and `parts`
// with name ("(not used)": what no part of a single file's model has), path, parameters, bytes, stored (how many
// weights in which format), and, where some cannot be read, unreadable (how many) and first_error. Reads headers and
// scales only.
absl::Status RunInspect(const ModelOptions& options, const InspectOptions& inspect);

}  // namespace fresco
