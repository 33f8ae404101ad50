#include "pipeline/models/mmdit_weights.h"

#include "pipeline/base/strings.h"
#include "pipeline/models/gpu_attention.h"
#include "pipeline/precision/device_kernels.h"
#include "pipeline/precision/fp8_attention.h"

namespace fresco {
namespace {

constexpr int64_t kTimestepFeatures = 256;
constexpr int64_t kFeedForwardFactor = 4;

at::Tensor ReadQkNorm(const MmditConfig& config, const std::string& name, WeightReader* reader) {
  return config.qk_norm ? reader->Tensor(name + ".weight", {config.head_dim}) : at::Tensor();
}

std::shared_ptr<const DeviceKernels> WantAttention(const MmditConfig& config, const Placement& placement) {
  if (placement.kernels != nullptr)
    placement.kernels->choices.Want(AttentionTask(placement.dtype, config.num_heads, config.head_dim, /*tokens=*/0));
  return placement.kernels;
}

// `prefix` is transformer_blocks.N.attn. or .attn2.
MmditAttention ReadImageAttention(const MmditConfig& config, const std::string& prefix, WeightReader* reader) {
  const int64_t dim = config.dim();
  return {
      .qkv = reader->ReadStacked({{prefix + "to_q", dim}, {prefix + "to_k", dim}, {prefix + "to_v", dim}}, dim),
      .out = reader->ReadLinear(prefix + "to_out.0", dim, dim),
      .norm_q = ReadQkNorm(config, prefix + "norm_q", reader),
      .norm_k = ReadQkNorm(config, prefix + "norm_k", reader),
      .kernels = WantAttention(config, reader->placement()),
      .scheme = reader->attention(),
  };
}

MmditAttention ReadContextAttention(const MmditConfig& config, const std::string& prefix, bool last,
                                    WeightReader* reader) {
  const int64_t dim = config.dim();
  return {
      .qkv = reader->ReadStacked(
          {{prefix + "add_q_proj", dim}, {prefix + "add_k_proj", dim}, {prefix + "add_v_proj", dim}}, dim),
      .out = last ? Linear() : reader->ReadLinear(prefix + "to_add_out", dim, dim),
      .norm_q = ReadQkNorm(config, prefix + "norm_added_q", reader),
      .norm_k = ReadQkNorm(config, prefix + "norm_added_k", reader),
  };
}

MmditFeedForward ReadFeedForward(const MmditConfig& config, const std::string& prefix, WeightReader* reader) {
  const int64_t dim = config.dim(), inner = kFeedForwardFactor * dim;
  return {.up = reader->ReadLinear(prefix + "net.0.proj", dim, inner),
          .down = reader->ReadLinear(prefix + "net.2", inner, dim)};
}

MmditBlock ReadBlock(const MmditConfig& config, int64_t index, WeightReader* reader) {
  const std::string prefix = StrCat("transformer_blocks.", index, ".");
  const bool dual = config.dual_attention(index), last = index == config.num_layers - 1;
  return {
      .attention = ReadImageAttention(config, prefix + "attn.", reader),
      .context_attention = ReadContextAttention(config, prefix + "attn.", last, reader),
      .dual = dual ? ReadImageAttention(config, prefix + "attn2.", reader) : MmditAttention(),
      .feed_forward = ReadFeedForward(config, prefix + "ff.", reader),
      .context_feed_forward = last ? MmditFeedForward() : ReadFeedForward(config, prefix + "ff_context.", reader),
  };
}

Linear ReadModulation(const MmditConfig& config, const std::vector<MmditBlock>& blocks, WeightReader* reader) {
  const int64_t dim = config.dim();
  std::vector<WeightReader::Part> parts;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const std::string prefix = StrCat("transformer_blocks.", i, ".");
    parts.push_back({prefix + "norm1.linear", blocks[i].image_parts() * dim});
    parts.push_back({prefix + "norm1_context.linear", blocks[i].text_parts() * dim});
  }
  return reader->ReadStacked(parts, dim);
}

Linear ReadPatchEmbedding(const MmditConfig& config, WeightReader* reader) {
  const int64_t patch = config.patch_size;
  const at::Tensor kernels = reader->Tensor("pos_embed.proj.weight", {config.dim(), config.in_channels, patch, patch});
  const at::Tensor bias = reader->Tensor("pos_embed.proj.bias", {config.dim()});
  return kernels.defined() && bias.defined() ? reader->Pack({kernels.flatten(1), bias, nullptr, nullptr}) : Linear();
}

}  // namespace

MmditWeights ReadMmditWeights(const MmditConfig& config, WeightReader* reader) {
  const int64_t dim = config.dim(), patch = config.patch_size * config.patch_size;
  if (reader->attention() == AttentionScheme::kFp8 && config.head_dim != kFp8HeadDim)
    reader->Fail(absl::InvalidArgumentError(
        StrCat("attention: fp8 is for heads of ", kFp8HeadDim, " channels; the transformer's have ", config.head_dim)));
  MmditWeights weights;
  weights.patch = ReadPatchEmbedding(config, reader);
  weights.positions =
      reader->Stored("pos_embed.pos_embed", {1, config.pos_embed_max_size * config.pos_embed_max_size, dim});
  const std::string embedders = "time_text_embed.";
  weights.timestep_1 = reader->ReadLinear(embedders + "timestep_embedder.linear_1", kTimestepFeatures, dim);
  weights.timestep_2 = reader->ReadLinear(embedders + "timestep_embedder.linear_2", dim, dim);
  weights.pooled_1 = reader->ReadLinear(embedders + "text_embedder.linear_1", config.pooled_projection_dim, dim);
  weights.pooled_2 = reader->ReadLinear(embedders + "text_embedder.linear_2", dim, dim);
  weights.context = reader->ReadLinear("context_embedder", config.joint_attention_dim, dim);
  for (int64_t i = 0; i < config.num_layers; ++i) weights.blocks.push_back(ReadBlock(config, i, reader));
  weights.modulation = ReadModulation(config, weights.blocks, reader);
  weights.norm_out = reader->ReadLinear("norm_out.linear", dim, 2 * dim);
  weights.out = reader->ReadLinear("proj_out", dim, patch * config.out_channels);
  return weights;
}

}  // namespace fresco
