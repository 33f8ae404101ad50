// What a loaded model is and takes.
#pragma once

#include "absl/status/statusor.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/engine/precision.h"

namespace fresco {

// Sizes and limits from the weights' shapes, defaults from the folder's fresco.yaml (INVALID_ARGUMENT for one that this
// model cannot draw). weights_digest is left empty: it takes longer.
absl::StatusOr<ModelInfo> DescribeModel(const LoadOptions& options, const ModelParts& parts,
                                        const Precision& precision);

}  // namespace fresco
