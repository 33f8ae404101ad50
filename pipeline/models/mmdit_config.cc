#include "pipeline/models/mmdit_config.h"

#include <algorithm>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_config.h"
#include "pipeline/models/limits.h"

namespace fresco {
namespace {

// What must agree between keys.
absl::Status CheckConsistent(const MmditConfig& config, const JsonConfig& json) {
  FRESCO_ASSIGN_OR_RETURN(const int64_t context, json.Int("caption_projection_dim", 1152, 1, kMaxWidth));
  if (context != config.dim()) {
    return json.Error("caption_projection_dim", StrCat("is ", context, ", where num_attention_heads times ",
                                                       "attention_head_dim is ", config.dim()));
  }
  for (int64_t layer : config.dual_attention_layers) {
    if (layer >= config.num_layers) {
      return json.Error("dual_attention_layers", StrCat("layer ", layer, " of ", config.num_layers));
    }
  }
  return absl::OkStatus();
}

}  // namespace

bool MmditConfig::dual_attention(int64_t layer) const {
  return std::binary_search(dual_attention_layers.begin(), dual_attention_layers.end(), layer);
}

// The defaults are SD3Transformer2DModel's.
absl::StatusOr<MmditConfig> ReadMmditConfig(const std::string& dir) {
  FRESCO_ASSIGN_OR_RETURN(const JsonConfig json, JsonConfig::Open(dir + "/config.json"));
  MmditConfig config;
  FRESCO_ASSIGN_OR_RETURN(config.num_layers, json.Int("num_layers", 18, 1, kMaxLayers));
  FRESCO_ASSIGN_OR_RETURN(config.num_heads, json.Int("num_attention_heads", 18, 1, kMaxLayers));
  FRESCO_ASSIGN_OR_RETURN(config.head_dim, json.Int("attention_head_dim", 64, 1, kMaxLayers));
  FRESCO_ASSIGN_OR_RETURN(config.joint_attention_dim, json.Int("joint_attention_dim", 4096, 1, kMaxWidth));
  FRESCO_ASSIGN_OR_RETURN(config.pooled_projection_dim, json.Int("pooled_projection_dim", 2048, 1, kMaxWidth));
  FRESCO_ASSIGN_OR_RETURN(config.pos_embed_max_size, json.Int("pos_embed_max_size", 96, 1, 4096));
  FRESCO_ASSIGN_OR_RETURN(config.patch_size, json.Int("patch_size", 2, 1, 64));
  FRESCO_ASSIGN_OR_RETURN(config.in_channels, json.Int("in_channels", 16, 1, 4096));
  FRESCO_ASSIGN_OR_RETURN(config.out_channels, json.Int("out_channels", config.in_channels, 1, 4096));
  FRESCO_ASSIGN_OR_RETURN(config.sample_size, json.Int("sample_size", 128, 1, kMaxPositions));
  FRESCO_ASSIGN_OR_RETURN(config.dual_attention_layers,
                          json.Ints("dual_attention_layers", std::vector<int64_t>{}, 0, kMaxLayers));
  std::sort(config.dual_attention_layers.begin(), config.dual_attention_layers.end());
  FRESCO_ASSIGN_OR_RETURN(const std::string qk_norm, json.String("qk_norm", ""));
  if (!qk_norm.empty() && qk_norm != "rms_norm") {
    return json.Error("qk_norm", StrCat("\"", PrintableName(qk_norm), "\" is neither null nor rms_norm"));
  }
  config.qk_norm = !qk_norm.empty();
  FRESCO_RETURN_IF_ERROR(CheckConsistent(config, json));
  return config;
}

}  // namespace fresco
