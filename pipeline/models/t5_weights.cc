#include "pipeline/models/t5_weights.h"

#include <string>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_config.h"
#include "pipeline/models/limits.h"

namespace fresco {

absl::StatusOr<T5Config> ReadT5Config(const std::string& dir) {
  FRESCO_ASSIGN_OR_RETURN(const JsonConfig json, JsonConfig::Open(dir + "/config.json"));
  T5Config config;
  FRESCO_ASSIGN_OR_RETURN(config.d_model, json.Int("d_model", 512, 1, kMaxWidth));
  FRESCO_ASSIGN_OR_RETURN(config.d_kv, json.Int("d_kv", 64, 1, kMaxWidth));
  FRESCO_ASSIGN_OR_RETURN(config.d_ff, json.Int("d_ff", 2048, 1, kMaxWidth));
  FRESCO_ASSIGN_OR_RETURN(config.num_layers, json.Int("num_layers", 6, 1, kMaxLayers));
  FRESCO_ASSIGN_OR_RETURN(config.num_heads, json.Int("num_heads", 8, 1, kMaxWidth));
  FRESCO_ASSIGN_OR_RETURN(config.vocab_size, json.Int("vocab_size", 32128, 1, kMaxVocabulary));
  FRESCO_ASSIGN_OR_RETURN(config.relative_buckets, json.Int("relative_attention_num_buckets", 32, 4, kMaxPositions));
  FRESCO_ASSIGN_OR_RETURN(config.relative_max_distance,
                          json.Int("relative_attention_max_distance", 128, 2, kMaxPositions));
  FRESCO_ASSIGN_OR_RETURN(config.layer_norm_eps, json.Double("layer_norm_epsilon", 1e-6));
  FRESCO_ASSIGN_OR_RETURN(const std::string feed_forward, json.String("feed_forward_proj", "relu"));
  if (feed_forward != "gated-gelu") {
    return json.Error("feed_forward_proj",
                      StrCat("\"", PrintableName(feed_forward), "\" is not gated-gelu, as T5 v1.1 has it"));
  }
  if (config.relative_max_distance * 4 <= config.relative_buckets) {
    return json.Error("relative_attention_max_distance", "is too small for so many buckets");
  }
  return config;
}

namespace {

T5Weights::Block ReadBlock(const T5Config& config, const std::string& prefix, WeightReader* reader) {
  const int64_t dim = config.d_model, inner = config.num_heads * config.d_kv;
  const std::string attention = prefix + "layer.0.SelfAttention.", dense = prefix + "layer.1.DenseReluDense.";
  const at::ScalarType dtype = reader->placement().dtype;
  const at::ScalarType down_dtype = dtype == at::kHalf ? at::kFloat : dtype;
  return {
      .attention_norm = reader->Tensor(prefix + "layer.0.layer_norm.weight", {dim}),
      .qkv = reader->ReadStacked({{attention + "q", inner}, {attention + "k", inner}, {attention + "v", inner}}, dim,
                                 /*bias=*/false),
      .out = reader->ReadLinear(attention + "o", inner, dim, /*bias=*/false),
      .ff_norm = reader->Tensor(prefix + "layer.1.layer_norm.weight", {dim}),
      .gate_up =
          reader->ReadStacked({{dense + "wi_0", config.d_ff}, {dense + "wi_1", config.d_ff}}, dim, /*bias=*/false),
      .down = reader->ReadLinearAs(dense + "wo", config.d_ff, dim, down_dtype),
  };
}

// transformers ties the two names; files hold either.
std::string EmbeddingName(const WeightReader& reader) {
  const bool shared = reader.Contains("shared.weight") || !reader.Contains("encoder.embed_tokens.weight");
  return shared ? "shared" : "encoder.embed_tokens";
}

}  // namespace

T5Weights ReadT5Weights(const T5Config& config, WeightReader* reader) {
  const at::Tensor tokens = reader->ReadEmbedding(EmbeddingName(*reader), config.vocab_size, config.d_model);
  T5Weights weights = ReadT5Ends(config, reader);
  weights.tokens = tokens;
  for (int64_t i = 0; i < config.num_layers; ++i) weights.blocks.push_back(ReadT5Block(config, i, reader));
  return weights;
}

T5Weights::Block ReadT5Block(const T5Config& config, int64_t index, WeightReader* reader) {
  return ReadBlock(config, StrCat("encoder.block.", index, "."), reader);
}

at::Tensor ReadT5Embeddings(const T5Config& config, const at::Tensor& ids, WeightReader* reader) {
  return reader->ReadRows(EmbeddingName(*reader), config.vocab_size, config.d_model, ids);
}

T5Weights ReadT5Ends(const T5Config& config, WeightReader* reader) {
  T5Weights weights;
  weights.relative_bias = reader->Tensor("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                                         {config.relative_buckets, config.num_heads});
  weights.final_norm = reader->Tensor("encoder.final_layer_norm.weight", {config.d_model});
  return weights;
}

}  // namespace fresco
