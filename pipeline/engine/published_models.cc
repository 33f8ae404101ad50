#include "pipeline/engine/published_models.h"

#include "pipeline/base/printable.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr int kDualLayersOfMedium = 13;

MmditConfig Transformer(bool medium) {
  MmditConfig config;
  config.num_layers = config.num_heads = medium ? 24 : 38;
  config.head_dim = 64;
  config.joint_attention_dim = 4096;
  config.pooled_projection_dim = 2048;
  config.pos_embed_max_size = medium ? 384 : 192;
  config.patch_size = 2;
  config.in_channels = config.out_channels = 16;
  config.sample_size = 128;
  config.qk_norm = true;
  for (int64_t i = 0; medium && i < kDualLayersOfMedium; ++i) config.dual_attention_layers.push_back(i);
  return config;
}

ClipConfig Clip(int64_t width, int64_t layers, ClipActivation activation) {
  ClipConfig config;
  config.hidden_size = config.projection_dim = width;
  config.intermediate_size = 4 * width;
  config.num_layers = layers;
  config.num_heads = width / 64;
  config.vocab_size = 49408;
  config.max_positions = 77;
  config.activation = activation;
  return config;
}

T5Config T5() {
  T5Config config;
  config.d_model = 4096;
  config.d_kv = config.num_heads = 64;
  config.d_ff = 10240;
  config.num_layers = 24;
  config.vocab_size = 32128;
  return config;
}

AutoencoderConfig Vae() {
  AutoencoderConfig config;
  config.latent_channels = 16;
  config.block_out_channels = {128, 256, 512, 512};
  config.scaling_factor = 1.5305;
  config.shift_factor = 0.0609;
  return config;
}

}  // namespace

absl::StatusOr<PublishedModel> FindPublishedModel(std::string_view name) {
  const bool medium = name == "sd3.5-medium";
  if (!medium && name != "sd3.5-large" && name != "sd3.5-large-turbo")
    return absl::InvalidArgumentError(
        StrCat("preset: '", PrintableName(name), "' is unknown: it is sd3.5-medium, sd3.5-large or sd3.5-large-turbo"));
  return PublishedModel{Transformer(medium), Clip(768, 12, ClipActivation::kQuickGelu),
                        Clip(1280, 32, ClipActivation::kGelu), T5(), Vae()};
}

}  // namespace fresco
