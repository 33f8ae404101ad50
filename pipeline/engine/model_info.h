// What a loaded model is and takes.
#pragma once

#include "absl/status/statusor.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/precision.h"
#include "pipeline/models/autoencoder.h"
#include "pipeline/models/mmdit_config.h"

namespace fresco {

// What a model's configurations say of it, before any weights are read.
struct ModelShape {
  MmditConfig transformer;
  AutoencoderConfig vae;
  bool has_t5 = false;
};

// Errors name the file and the key, or the tensor.
absl::StatusOr<ModelShape> ReadModelShape(const ModelSource& source);

// As below, less the components.
absl::StatusOr<ModelInfo> DescribeModel(const LoadOptions& options, const ModelSource& source, const ModelShape& shape,
                                        const Precision& precision);

// Sizes and limits from the weights' shapes, defaults from the model's fresco.yaml (INVALID_ARGUMENT for one that this
// model cannot draw). weights_digest is left empty: it takes longer.
absl::StatusOr<ModelInfo> DescribeModel(const LoadOptions& options, const ModelSource& source, const ModelParts& parts,
                                        const Precision& precision);

}  // namespace fresco
