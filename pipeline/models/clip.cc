#include "pipeline/models/clip.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/eq.h>
#include <c10/util/Exception.h>

#include <utility>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/models/clip_weights.h"

namespace fresco {
namespace {

at::Tensor SelfAttention(const at::Tensor& x, const ClipWeights::Layer& layer, int64_t heads) {
  const std::vector<at::Tensor> qkv = layer.qkv.Tokens(x).chunk(3, -1);
  return layer.out.Tokens(
      Attention(SplitHeads(qkv[0], heads), SplitHeads(qkv[1], heads), SplitHeads(qkv[2], heads), {.causal = true}));
}

at::Tensor RunLayer(at::Tensor x, const ClipWeights::Layer& layer, const ClipConfig& config) {
  x = x + SelfAttention(LayerNorm(x, layer.norm1, config.layer_norm_eps), layer, config.num_heads);
  at::Tensor up = layer.up.Tokens(LayerNorm(x, layer.norm2, config.layer_norm_eps));
  const auto activate = config.activation == ClipActivation::kGelu ? GeluErf : QuickGelu;
  return x.add_(layer.down.Tokens(activate(up)));
}

// [B]: where each text ends.
at::Tensor EndOfText(const at::Tensor& ids, int64_t eos_token_id) {
  if (eos_token_id == 2) return at::argmax(ids, -1);
  return at::argmax(at::eq(ids, eos_token_id).to(at::kInt), -1);
}

}  // namespace

absl::StatusOr<ClipTextModel> ClipTextModel::Load(const std::string& dir, const Placement& placement) {
  FRESCO_ASSIGN_OR_RETURN(const ClipConfig config, ReadClipConfig(dir));
  FRESCO_ASSIGN_OR_RETURN(WeightStore weights, WeightStore::Open(dir, kTransformersStem));
  return Load(config, std::move(weights), placement);
}

absl::StatusOr<ClipTextModel> ClipTextModel::Load(const ClipConfig& config, WeightStore weights,
                                                  const Placement& placement) {
  return Read(config, WeightReader(std::move(weights), placement));
}

absl::StatusOr<ClipTextModel> ClipTextModel::Shape(const ClipConfig& config, const Placement& placement) {
  FRESCO_ASSIGN_OR_RETURN(ClipTextModel model, Read(config, WeightReader::OfShapes(placement)));
  model.placement_ = placement;
  return model;
}

absl::StatusOr<ClipTextModel> ClipTextModel::Read(const ClipConfig& config, WeightReader reader) {
  ClipTextModel model;
  model.config_ = config;
  model.weights_ = std::make_shared<ClipWeights>(ReadClipWeights(model.config_, &reader));
  FRESCO_RETURN_IF_ERROR(reader.status());
  model.placement_ = reader.placement();
  model.weight_bytes_ = reader.bytes();
  return model;
}

ClipTextModel::Output ClipTextModel::Encode(const at::Tensor& ids, int clip_skip, const Observer& observer) const {
  TORCH_CHECK(clip_skip >= 0 && clip_skip < config_.num_layers, "clip_skip ", clip_skip, " of ", config_.num_layers);
  const ClipWeights& weights = *weights_;
  const auto observe = [&](const auto& name, const at::Tensor& value) {
    if (observer) observer(name, value);
  };
  at::Tensor x = at::embedding(weights.tokens, ids) + weights.positions.narrow(0, 0, ids.size(1));
  observe("embeddings", x);
  at::Tensor hidden;
  const int64_t last_hidden = config_.num_layers - 1 - clip_skip;
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    if (i == last_hidden) hidden = x;
    x = RunLayer(x, weights.layers[i], config_);
    observe(StrCat("layer.", i), x);
  }
  x = LayerNorm(x, weights.final_norm, config_.layer_norm_eps);
  observe("final_layer_norm", x);
  const at::Tensor end = EndOfText(ids, config_.eos_token_id).view({-1, 1, 1}).expand({-1, 1, x.size(2)});
  const at::Tensor pooled = weights.projection.Rows(x.gather(1, end).squeeze(1));
  observe("pooled", pooled);
  return {hidden, pooled};
}

}  // namespace fresco
