#include "pipeline/models/t5.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/isinf.h>
#include <ATen/ops/log.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <utility>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/models/layer_work.h"
#include "pipeline/models/t5_weights.h"

namespace fresco {
namespace {

// The bucket of each distance key - query in `distance` (int64): half of the buckets for each sign; of these, one per
// step for the first half, then logarithmically wider up to max_distance. Raffel et al. 2020, and transformers'
// T5Attention._relative_position_bucket, with whose rounding (fp32) it agrees.
at::Tensor RelativeBuckets(const at::Tensor& distance, int64_t buckets, int64_t max_distance) {
  const int64_t half = buckets / 2, exact = half / 2;
  const at::Tensor magnitude = distance.abs();
  const at::Tensor wide = at::log(magnitude.to(at::kFloat) / exact) /
                          std::log(static_cast<double>(max_distance) / static_cast<double>(exact)) * (half - exact);
  const at::Tensor far = at::clamp_max(wide.to(at::kLong) + exact, half - 1);
  return (distance > 0).to(at::kLong) * half + at::where(magnitude < exact, magnitude, far);
}

// [1, heads, T, T], added to the attention's logits.
at::Tensor PositionBias(const T5Weights& weights, const T5Config& config, int64_t length) {
  const at::Tensor position = at::arange(length, at::TensorOptions(weights.relative_bias.device()).dtype(at::kLong));
  const at::Tensor distance = position.unsqueeze(0) - position.unsqueeze(1);
  const at::Tensor buckets = RelativeBuckets(distance, config.relative_buckets, config.relative_max_distance);
  return at::embedding(weights.relative_bias, buckets).permute({2, 0, 1}).unsqueeze(0).contiguous();
}

at::Tensor Embed(const at::Tensor& tokens, const at::Tensor& ids) {
  const LayerScope scope("shared", [&] { return RowWork(tokens, ids); });
  return at::embedding(tokens, ids);
}

// fp16 alone: what left its range comes back to just below it.
at::Tensor ClampHalf(const at::Tensor& x) {
  if (x.scalar_type() != at::kHalf) return x;
  constexpr double kMax = 65504.0;
  const double limit = at::isinf(x).any().item<bool>() ? kMax - 1000 : kMax;
  return at::clamp(x, -limit, limit);
}

at::Tensor SelfAttention(const at::Tensor& x, const T5Weights::Block& block, const at::Tensor& bias, int64_t heads) {
  const std::vector<at::Tensor> qkv = TokensOf("SelfAttention.q, k, v", block.qkv, x).chunk(3, -1);
  const at::Tensor q = SplitHeads(qkv[0], heads), k = SplitHeads(qkv[1], heads), v = SplitHeads(qkv[2], heads);
  const auto attend = [&] {
    const LayerScope scope("SelfAttention.attention", [&] { return AttentionWork(q, k, v); });
    return Attention(q, k, v, {.bias = bias, .scale = 1.0});
  };
  return TokensOf("SelfAttention.o", block.out, attend());
}

at::Tensor FeedForward(const at::Tensor& x, const T5Weights::Block& block) {
  const std::vector<at::Tensor> halves = TokensOf("DenseReluDense.wi_0, wi_1", block.gate_up, x).chunk(2, -1);
  const auto activate = [&] {
    const LayerScope scope("DenseReluDense.gelu", [&] { return ElementwiseWork({halves[0], halves[1]}); });
    at::Tensor gate = halves[0].contiguous();
    return GeluTanh(gate).mul_(halves[1]).to(block.down.weight.scalar_type());
  };
  return TokensOf("DenseReluDense.wo", block.down, activate());
}

at::Tensor Normed(const char* name, const at::Tensor& x, const at::Tensor& weight, double eps) {
  const LayerScope scope(name, [&] { return ElementwiseWork({x}); });
  return RmsNorm(x, weight, eps);
}

at::Tensor RunBlock(at::Tensor x, const T5Weights::Block& block, const at::Tensor& bias, const T5Config& config) {
  const double eps = config.layer_norm_eps;
  x = ClampHalf(
      x + SelfAttention(Normed("layer.0.layer_norm", x, block.attention_norm, eps), block, bias, config.num_heads));
  return ClampHalf(x + FeedForward(Normed("layer.1.layer_norm", x, block.ff_norm, eps), block));
}

}  // namespace

absl::StatusOr<T5Encoder> T5Encoder::Load(const std::string& dir, const Placement& placement,
                                          const LayerTable& layers) {
  FRESCO_ASSIGN_OR_RETURN(const T5Config config, ReadT5Config(dir));
  FRESCO_ASSIGN_OR_RETURN(WeightStore weights, WeightStore::Open(dir, kTransformersStem));
  return Load(config, std::move(weights), placement, layers);
}

absl::StatusOr<T5Encoder> T5Encoder::Load(const T5Config& config, WeightStore weights, const Placement& placement,
                                          const LayerTable& layers, const LinearObservers& observers) {
  T5Encoder model;
  model.config_ = config;
  WeightReader reader(std::move(weights), placement, layers);
  reader.SetObservers("text_encoder_3", observers);
  model.weights_ = std::make_shared<T5Weights>(ReadT5Weights(model.config_, &reader));
  FRESCO_RETURN_IF_ERROR(reader.status());
  model.placement_ = placement;
  model.weight_bytes_ = reader.bytes();
  model.linears_ = reader.linears();
  return model;
}

at::Tensor T5Encoder::Encode(const at::Tensor& ids, const Observer& observer) const {
  const auto observe = [&](const auto& name, const at::Tensor& value) {
    if (observer) observer(name, value);
  };
  at::Tensor x = Embed(weights_->tokens, ids);
  observe("embeddings", x);
  const at::Tensor bias = PositionBias(*weights_, config_, ids.size(1));
  for (size_t i = 0; i < weights_->blocks.size(); ++i) {
    const ModuleScope scope("encoder.block", i);
    x = RunBlock(x, weights_->blocks[i], bias, config_);
    observe(StrCat("block.", i), x);
  }
  x = Normed("encoder.final_layer_norm", x, weights_->final_norm, config_.layer_norm_eps);
  observe("final_layer_norm", x);
  return x;
}

}  // namespace fresco
