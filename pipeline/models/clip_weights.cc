#include "pipeline/models/clip_weights.h"

#include <string>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_config.h"
#include "pipeline/models/limits.h"

namespace fresco {

absl::StatusOr<ClipConfig> ReadClipConfig(const std::string& dir) {
  FRESCO_ASSIGN_OR_RETURN(const JsonConfig json, JsonConfig::Open(dir + "/config.json"));
  ClipConfig config;
  FRESCO_ASSIGN_OR_RETURN(config.hidden_size, json.Int("hidden_size", 512, 1, kMaxWidth));
  FRESCO_ASSIGN_OR_RETURN(config.intermediate_size, json.Int("intermediate_size", 2048, 1, kMaxWidth));
  FRESCO_ASSIGN_OR_RETURN(config.num_layers, json.Int("num_hidden_layers", 12, 1, kMaxLayers));
  FRESCO_ASSIGN_OR_RETURN(config.num_heads, json.Int("num_attention_heads", 8, 1, kMaxWidth));
  FRESCO_ASSIGN_OR_RETURN(config.projection_dim, json.Int("projection_dim", 512, 1, kMaxWidth));
  FRESCO_ASSIGN_OR_RETURN(config.vocab_size, json.Int("vocab_size", 49408, 1, kMaxVocabulary));
  FRESCO_ASSIGN_OR_RETURN(config.max_positions, json.Int("max_position_embeddings", 77, 1, kMaxPositions));
  FRESCO_ASSIGN_OR_RETURN(config.eos_token_id, json.Int("eos_token_id", 49407, 0, kMaxVocabulary));
  FRESCO_ASSIGN_OR_RETURN(config.layer_norm_eps, json.Double("layer_norm_eps", 1e-5));
  FRESCO_ASSIGN_OR_RETURN(const std::string activation, json.String("hidden_act", "quick_gelu"));
  if (activation != "quick_gelu" && activation != "gelu") {
    return json.Error("hidden_act", StrCat("\"", PrintableName(activation), "\" is neither quick_gelu nor gelu"));
  }
  config.activation = activation == "gelu" ? ClipActivation::kGelu : ClipActivation::kQuickGelu;
  if (config.hidden_size % config.num_heads != 0) {
    return json.Error("num_attention_heads", "does not divide hidden_size");
  }
  return config;
}

namespace {

ClipWeights::Layer ReadLayer(const ClipConfig& config, const std::string& prefix, WeightReader* reader) {
  const int64_t dim = config.hidden_size;
  const std::string attention = prefix + "self_attn.";
  return {
      .norm1 = reader->ReadNorm(prefix + "layer_norm1", dim),
      .norm2 = reader->ReadNorm(prefix + "layer_norm2", dim),
      .qkv = reader->ReadStacked(
          {{attention + "q_proj", dim}, {attention + "k_proj", dim}, {attention + "v_proj", dim}}, dim),
      .out = reader->ReadLinear(attention + "out_proj", dim, dim),
      .up = reader->ReadLinear(prefix + "mlp.fc1", dim, config.intermediate_size),
      .down = reader->ReadLinear(prefix + "mlp.fc2", config.intermediate_size, dim),
  };
}

}  // namespace

ClipWeights ReadClipWeights(const ClipConfig& config, WeightReader* reader) {
  const int64_t dim = config.hidden_size;
  ClipWeights weights;
  weights.tokens = reader->ReadEmbedding("text_model.embeddings.token_embedding", config.vocab_size, dim);
  weights.positions = reader->Tensor("text_model.embeddings.position_embedding.weight", {config.max_positions, dim});
  for (int64_t i = 0; i < config.num_layers; ++i) {
    weights.layers.push_back(ReadLayer(config, StrCat("text_model.encoder.layers.", i, "."), reader));
  }
  weights.final_norm = reader->ReadNorm("text_model.final_layer_norm", dim);
  weights.projection = reader->ReadLinear("text_projection", dim, config.projection_dim, /*bias=*/false);
  return weights;
}

}  // namespace fresco
