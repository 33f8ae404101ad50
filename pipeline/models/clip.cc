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
#include "pipeline/models/layer_work.h"

namespace fresco {
namespace {

at::Tensor SelfAttention(const at::Tensor& x, const ClipWeights::Layer& layer, int64_t heads) {
  const std::vector<at::Tensor> qkv = TokensOf("self_attn.q_proj, k_proj, v_proj", layer.qkv, x).chunk(3, -1);
  const at::Tensor q = SplitHeads(qkv[0], heads), k = SplitHeads(qkv[1], heads), v = SplitHeads(qkv[2], heads);
  const auto attend = [&] {
    const LayerScope scope("self_attn.attention", [&] { return AttentionWork(q, k, v); });
    return Attention(q, k, v, {.causal = true});
  };
  return TokensOf("self_attn.out_proj", layer.out, attend());
}

at::Tensor Normed(const char* name, const at::Tensor& x, const Norm& norm, double eps) {
  const LayerScope scope(name, [&] { return ElementwiseWork({x, norm.weight, norm.bias}, BytesOf(x)); });
  return LayerNorm(x, norm, eps);
}

at::Tensor Activate(at::Tensor up, ClipActivation activation) {
  const LayerScope scope("mlp.activation_fn", [&] { return ActivationWork(up); });
  return activation == ClipActivation::kGelu ? GeluErf(up) : QuickGelu(up);
}

at::Tensor RunLayer(at::Tensor x, const ClipWeights::Layer& layer, const ClipConfig& config) {
  const double eps = config.layer_norm_eps;
  x = x + SelfAttention(Normed("layer_norm1", x, layer.norm1, eps), layer, config.num_heads);
  const at::Tensor up = TokensOf("mlp.fc1", layer.up, Normed("layer_norm2", x, layer.norm2, eps));
  return x.add_(TokensOf("mlp.fc2", layer.down, Activate(up, config.activation)));
}

at::Tensor Embed(const ClipWeights& weights, const at::Tensor& ids) {
  const LayerScope scope("text_model.embeddings", [&] { return RowWork(weights.tokens, ids); });
  return at::embedding(weights.tokens, ids) + weights.positions.narrow(0, 0, ids.size(1));
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
  at::Tensor x = Embed(weights, ids);
  observe("embeddings", x);
  at::Tensor hidden;
  const int64_t last_hidden = config_.num_layers - 1 - clip_skip;
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    if (i == last_hidden) hidden = x;
    const ModuleScope scope("text_model.encoder.layers", static_cast<size_t>(i));
    x = RunLayer(x, weights.layers[i], config_);
    observe(StrCat("layer.", i), x);
  }
  x = Normed("text_model.final_layer_norm", x, weights.final_norm, config_.layer_norm_eps);
  observe("final_layer_norm", x);
  const at::Tensor end = EndOfText(ids, config_.eos_token_id).view({-1, 1, 1}).expand({-1, 1, x.size(2)});
  const at::Tensor pooled = RowsOf("text_projection", weights.projection, x.gather(1, end).squeeze(1));
  observe("pooled", pooled);
  return {hidden, pooled};
}

}  // namespace fresco
