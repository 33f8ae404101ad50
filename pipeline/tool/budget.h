// `fresco-model inspect --budget`: whether a model fits, before anything of it is loaded.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "pipeline/tool/options.h"

namespace fresco {

struct BudgetOptions {
  int64_t bytes = 0;   // 0: it is not asked for
  std::string preset;  // a published model, instead of a model's files
  int batch = 1;       // images advanced together
};

// Prints what each component and each stage will hold of the device's memory, with as few components as possible loaded
// only when they are needed, and whether it is within the budget; if not, what would be. The exit code: kDone where it
// fits, kFailed where it does not. Of `draw` counts what the picture's shape depends on.
//
// --json: fits, all_kept (nothing has to be loaded when needed), budget_bytes, peak_bytes, peak_stage, headroom_bytes
// (negative: it does not fit), device, precision, width, height, batch, guided, max_sequence_length; components: name,
// precision, weight_bytes, kept, streamed; stages: name, weight_bytes, state_bytes, activation_bytes, total_bytes;
// would_fit: setting, peak_bytes.
absl::StatusOr<int> RunBudget(const ModelOptions& model, const DrawOptions& draw, const BudgetOptions& options);

}  // namespace fresco
