// A model's parts, loaded and checked against each other.
#pragma once

#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/diffusion/schedule.h"
#include "pipeline/diffusion/text_conditioning.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/model_folder.h"
#include "pipeline/models/autoencoder.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/models/placement.h"

namespace fresco {

// A part that has weights, and the stem of their files' names.
struct WeightedPart {
  std::string_view name;
  std::string_view stem;
};
inline constexpr WeightedPart kWeightedParts[] = {{"transformer", kDiffusersStem},
                                                  {"text_encoder", kTransformersStem},
                                                  {"text_encoder_2", kTransformersStem},
                                                  {"text_encoder_3", kTransformersStem},
                                                  {"vae", kDiffusersStem}};

// Immutable; computes on the calling thread.
struct ModelParts {
  ScheduleConfig schedule;
  TextConditioner text;
  Mmdit transformer;
  Autoencoder vae;

  // Pixels a side of an image must be a multiple of.
  int size_multiple() const;
  // Their names, type and bytes, the transformer first. `precision` names their type.
  std::vector<ModelInfo::Component> Components(std::string_view precision) const;
};

// Errors name the file and the tensor or key: as the parts' Load. May throw libtorch's exceptions.
absl::StatusOr<ModelParts> LoadModelParts(const ModelFolder& folder, const Placement& placement);

// "sha256:…" over the digests of all weights that the model uses, as stored (WeightStore::Digest of each component):
// SHA-256 of "transformer sha256:…\n", "text_encoder …\n" and so on. Reads every weight file; `threads` read at a time.
// CANCELLED soon after `stop` is asked for.
absl::StatusOr<std::string> DigestWeights(const ModelFolder& folder, int threads, const std::stop_token& stop = {});

// INVALID_ARGUMENT that names the file and the first tensor with a NaN or an infinite weight; OK where there is none.
// Reads every weight file.
absl::Status CheckWeightsFinite(const ModelFolder& folder);

}  // namespace fresco
