#include "pipeline/models/t5.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/isinf.h>
#include <ATen/ops/log.h>
#include <ATen/ops/where.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/memory_scope.h"
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

// Of what is as wide as x, in that type.
int64_t BytesIn(at::ScalarType type, const at::Tensor& x) {
  return x.numel() * static_cast<int64_t>(at::elementSize(type));
}

at::Tensor FeedForward(const at::Tensor& x, const T5Weights::Block& block) {
  const std::vector<at::Tensor> halves = TokensOf("DenseReluDense.wi_0, wi_1", block.gate_up, x).chunk(2, -1);
  const auto activate = [&] {
    const at::ScalarType type = block.down.weight.scalar_type();
    const auto work = [&] { return ElementwiseWork({halves[0], halves[1]}, BytesIn(type, halves[0])); };
    const LayerScope scope("DenseReluDense.gelu", work);
    at::Tensor gate = halves[0].contiguous();
    return GeluTanh(gate).mul_(halves[1]).to(type);
  };
  return TokensOf("DenseReluDense.wo", block.down, activate());
}

at::Tensor Normed(const char* name, const at::Tensor& x, const at::Tensor& weight, double eps) {
  const LayerScope scope(name, [&] { return ElementwiseWork({x, weight}, BytesIn(weight.scalar_type(), x)); });
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
  WeightReader reader(std::move(weights), placement, layers);
  reader.SetObservers("text_encoder_3", observers);
  return Read(config, std::move(reader));
}

absl::StatusOr<T5Encoder> T5Encoder::Shape(const T5Config& config, const Placement& placement,
                                           const LayerTable& layers) {
  FRESCO_ASSIGN_OR_RETURN(T5Encoder model, Read(config, WeightReader::OfShapes(placement, layers)));
  model.placement_ = placement;
  return model;
}

absl::StatusOr<T5Encoder> T5Encoder::Read(const T5Config& config, WeightReader reader) {
  T5Encoder model;
  model.config_ = config;
  model.weights_ = std::make_shared<T5Weights>(ReadT5Weights(model.config_, &reader));
  FRESCO_RETURN_IF_ERROR(reader.status());
  model.placement_ = reader.placement();
  model.weight_bytes_ = reader.bytes();
  model.linears_ = reader.linears();
  return model;
}

absl::StatusOr<T5Encoder> T5Encoder::Streamed(const T5Config& config, WeightStore weights, const Placement& placement,
                                              const LayerTable& layers, const LinearObservers& observers) {
  FRESCO_ASSIGN_OR_RETURN(T5Encoder model, Shape(config, placement, layers));
  model.stream_ = [weights = std::move(weights), placement, layers, observers] {
    WeightReader reader(weights, placement, layers);
    reader.SetObservers("text_encoder_3", observers);
    return reader;
  };
  return model;
}

namespace {

void Observe(const Observer& observer, const std::string& name, const at::Tensor& value) {
  if (observer) observer(name, value);
}

// `ends`: bias and last norm; `block_of(i)`: a block, which is there until it is asked for the next.
template <typename BlockOf>
at::Tensor RunEncoder(at::Tensor x, const T5Weights& ends, const T5Config& config, const BlockOf& block_of,
                      const Observer& observer) {
  Observe(observer, "embeddings", x);
  const at::Tensor bias = PositionBias(ends, config, x.size(1));
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const ModuleScope scope("encoder.block", static_cast<size_t>(i));
    x = RunBlock(x, block_of(i), bias, config);
    Observe(observer, StrCat("block.", i), x);
  }
  x = Normed("encoder.final_layer_norm", x, ends.final_norm, config.layer_norm_eps);
  Observe(observer, "final_layer_norm", x);
  return x;
}

}  // namespace

at::Tensor T5Encoder::Encode(const at::Tensor& ids, const Observer& observer) const {
  if (stream_) return EncodeStreamed(ids, observer);
  const auto block_of = [&](int64_t i) -> const T5Weights::Block& { return weights_->blocks[static_cast<size_t>(i)]; };
  return RunEncoder(Embed(weights_->tokens, ids), *weights_, config_, block_of, observer);
}

at::Tensor T5Encoder::EncodeStreamed(const at::Tensor& ids, const Observer& observer) const {
  WeightReader reader = stream_();
  const auto check = [&] { TORCH_CHECK(reader.status().ok(), std::string(reader.status().message())); };
  const at::Tensor x = ReadT5Embeddings(config_, ids, &reader);
  const T5Weights ends = ReadT5Ends(config_, &reader);
  check();
  T5Weights::Block block;
  const auto block_of = [&](int64_t i) -> const T5Weights::Block& {
    const MemoryScope memory("text_encoder_3", MemoryKind::kWeights);
    block = {};  // before the next is there
    block = ReadT5Block(config_, i, &reader);
    check();
    return block;
  };
  return RunEncoder(x, ends, config_, block_of, observer);
}

}  // namespace fresco
