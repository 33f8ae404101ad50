// A model's parts, loaded and checked against each other.
#pragma once

#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/diffusion/schedule.h"
#include "pipeline/diffusion/text_conditioning.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/precision.h"
#include "pipeline/models/autoencoder.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/models/placement.h"
#include "pipeline/precision/layer_table.h"
#include "pipeline/precision/saturation.h"

namespace fresco {

class MemoryBudget;
class Residency;

// Immutable; computes on the calling thread.
struct ModelParts {
  ScheduleConfig schedule;
  TextConditioner text;
  Mmdit transformer;
  Autoencoder vae;
  std::shared_ptr<SaturationCount> saturation;  // of all parts that compute in FP8; never null, thread-safe
  // Has text encoders and VAE, which are shapes alone here. Null: everything stays.
  std::shared_ptr<Residency> residency = nullptr;

  // Pixels a side of an image must be a multiple of.
  int size_multiple() const;
  // Their names, precisions and bytes, the transformer first.
  std::vector<ModelInfo::Component> Components(const Precision& precision) const;
  // How many linears are computed in what and were stored as what, a line for each component that a table is for.
  std::vector<std::string> Notes(const Precision& precision) const;
};

// ModelInfo's, of parts that may be shapes alone; `t5`: null where there is none.
std::vector<ModelInfo::Component> ComponentsOf(const Precision& precision, const Mmdit& transformer,
                                               const ClipTextModel& clip_l, const ClipTextModel& clip_g,
                                               const T5Encoder* t5, const Autoencoder& vae);

// The transformer alone; the source need have no other part. Errors as ModelSource::TransformerConfig's and
// Mmdit::Load's. May throw libtorch's exceptions. `rounded`: a file of weights that take the place of the source's
// where `layers` quantises them (docs/CALIBRATION.md, "Rounding"); empty: none. `observers`: Mmdit::Load's.
absl::StatusOr<Mmdit> LoadTransformer(const ModelSource& source, const Placement& placement, const LayerTable& layers,
                                      const std::string& rounded = "", const LinearObservers& observers = {});

// Errors name the file and the tensor or key: as ModelSource's and the parts' Load. May throw libtorch's exceptions.
// `observers`: of the transformer's linears (null: nobody), and who counts saturation (null: a count of its own).
absl::StatusOr<ModelParts> LoadModelParts(const ModelSource& source, const at::Device& device,
                                          const Precision& precision, const VaeOptions& vae = {},
                                          const LinearObservers& observers = {});

// A model's part of a budget.
struct MemoryShare {
  std::shared_ptr<MemoryBudget> budget;
  std::string model;  // its name, for whoever is told of loads
};

// The same within a budget: text encoders and VAE are loaded when they are needed. Of these what is not in their files'
// headers is checked then.
absl::StatusOr<ModelParts> LoadPartsWithin(const MemoryShare& memory, const ModelSource& source,
                                           const at::Device& device, const Precision& precision, const VaeOptions& vae,
                                           const LinearObservers& observers);

// "sha256:…" over the digests of all weights that the model uses, as stored (WeightStore::Digest of each component):
// SHA-256 of "transformer sha256:…\n", "text_encoder …\n" and so on. Reads every weight file; `threads` read at a time.
// CANCELLED soon after `stop` is asked for.
absl::StatusOr<std::string> DigestWeights(const ModelSource& source, int threads, const std::stop_token& stop = {});

// INVALID_ARGUMENT that names the file and the first tensor with a NaN or an infinite weight; OK where there is none.
// Reads every weight file.
absl::Status CheckWeightsFinite(const ModelSource& source);

}  // namespace fresco
