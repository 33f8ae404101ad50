// `fresco-model inspect --activations`: what passes through the layers of a model while it draws.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "pipeline/tool/options.h"

namespace fresco {

struct ActivationsOptions {
  std::string prompts_file;  // as ReadPrompts; empty: the one prompt of DrawOptions
  std::string against;       // a precision that it is held against; empty: none
  std::string features;      // a layer whose feature maps are written; empty: none
  std::string output = ".";  // the folder that they are written to
  std::string html;          // a page to write; empty: none
};

// Draws and prints a table, a row for each layer, all steps together; with `against` the quantised linears with the
// most noise of their own first, and which is the first to fall. --json: `model`, `precision`, `device`, `against`
// (null: none), `prompts` (each `prompt`, `seed`), `width`, `height`, `steps`, `guidance_scale`, `first_to_fall` (a
// name, or null), `ranked` (names, the worst first), `features` (files) and `layers`, a list in the order of
// computation of `name`, `kind` ("linear", "stage", "other"), `with` (names), `scheme` (null for what is no linear),
// `all` and `steps`, a list with null for a step that the layer has no part in; the last is the decoding. `all` and
// each step: `elements`, `min`, `max`, `absmax` (null where infinite), `percentiles` (of magnitudes: "99", "99.9",
// "99.99"), `nan`, `infinite`, `beyond_e4m3` (elements above 448), `saturated`, `guarded`, `own_db` and `through_db`
// (null: unknown or not finite; "equal" where nothing differs).
absl::Status RunActivations(const ModelOptions& model, const DrawOptions& draw, const ActivationsOptions& options);

}  // namespace fresco
