#include "pipeline/tool/presets.h"

#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/published_models.h"

namespace fresco {

absl::StatusOr<MmditConfig> PresetConfig(std::string_view name, int layers, int patches) {
  absl::StatusOr<PublishedModel> model = FindPublishedModel(name);
  if (!model.ok()) return absl::Status(model.status().code(), StrCat("--", model.status().message()));
  MmditConfig config = std::move(model->transformer);
  config.pos_embed_max_size = patches;
  if (layers < 0 || layers > config.num_layers)
    return absl::InvalidArgumentError(StrCat("--layers: ", layers, " is not from 1 to ", config.num_layers));
  if (layers > 0) config.num_layers = layers;
  std::erase_if(config.dual_attention_layers, [&](int64_t layer) { return layer >= config.num_layers; });
  return config;
}

}  // namespace fresco
