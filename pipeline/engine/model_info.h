// What a loaded model is and takes.
#pragma once

#include "absl/status/statusor.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/model_folder.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/engine/precision.h"
#include "pipeline/models/autoencoder.h"
#include "pipeline/models/mmdit_config.h"

namespace fresco {

// What a model's config files say of it, before any weights are read.
struct ModelShape {
  MmditConfig transformer;
  AutoencoderConfig vae;
  bool has_t5 = false;
};

// Reads the configs. Errors name the file and the key.
absl::StatusOr<ModelShape> ReadModelShape(const ModelFolder& folder);

// As below, less the components.
absl::StatusOr<ModelInfo> DescribeModel(const LoadOptions& options, const ModelShape& shape,
                                        const Precision& precision);

// Sizes and limits from the weights' shapes, defaults from the folder's fresco.yaml (INVALID_ARGUMENT for one that this
// model cannot draw). weights_digest is left empty: it takes longer.
absl::StatusOr<ModelInfo> DescribeModel(const LoadOptions& options, const ModelParts& parts,
                                        const Precision& precision);

}  // namespace fresco
