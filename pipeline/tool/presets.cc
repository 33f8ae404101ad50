#include "pipeline/tool/presets.h"

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr int kDualLayersOfMedium = 13;

MmditConfig CommonConfig(int heads, int patches) {
  MmditConfig config;
  config.num_layers = config.num_heads = heads;
  config.head_dim = 64;
  config.joint_attention_dim = 4096;
  config.pooled_projection_dim = 2048;
  config.patch_size = 2;
  config.in_channels = config.out_channels = 16;
  config.sample_size = 128;
  config.qk_norm = true;
  config.pos_embed_max_size = patches;
  return config;
}

}  // namespace

absl::StatusOr<MmditConfig> PresetConfig(std::string_view name, int layers, int patches) {
  const bool medium = name == "sd3.5-medium";
  if (!medium && name != "sd3.5-large" && name != "sd3.5-large-turbo")
    return absl::InvalidArgumentError(
        StrCat("--preset: '", name, "' is unknown: it is sd3.5-medium, sd3.5-large or sd3.5-large-turbo"));
  MmditConfig config = CommonConfig(medium ? 24 : 38, patches);
  if (layers < 0 || layers > config.num_layers)
    return absl::InvalidArgumentError(StrCat("--layers: ", layers, " is not from 1 to ", config.num_layers));
  if (layers > 0) config.num_layers = layers;
  for (int64_t i = 0; medium && i < kDualLayersOfMedium && i < config.num_layers; ++i)
    config.dual_attention_layers.push_back(i);
  return config;
}

}  // namespace fresco
