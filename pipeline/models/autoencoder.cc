#include "pipeline/models/autoencoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/upsample_nearest2d.h>

#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/models/autoencoder_weights.h"

namespace fresco {
namespace {

constexpr double kEps = 1e-6;

at::Tensor Convolve(const at::Tensor& x, const Conv& conv, int64_t stride = 1, int64_t padding = 1) {
  return at::conv2d(x, conv.weight, conv.bias, {stride, stride}, {padding, padding});
}

at::Tensor Convolve1x1(const at::Tensor& x, const Conv& conv) {
  return Convolve(x, conv, 1, 0);
}

at::Tensor GroupNorm(const at::Tensor& x, const Norm& norm, int64_t groups) {
  return at::group_norm(x, groups, norm.weight, norm.bias, kEps);
}

at::Tensor NormSilu(const at::Tensor& x, const Norm& norm, int64_t groups) {
  at::Tensor normed = GroupNorm(x, norm, groups);
  return at::silu_(normed);
}

at::Tensor RunResnet(const at::Tensor& x, const ResnetWeights& weights, int64_t groups) {
  at::Tensor y = Convolve(NormSilu(x, weights.norm1, groups), weights.conv1);
  y = Convolve(NormSilu(y, weights.norm2, groups), weights.conv2);
  return y.add_(weights.shortcut.weight.defined() ? Convolve1x1(x, weights.shortcut) : x);
}

// Every pixel attends to all, with one head as wide as the channels.
at::Tensor RunAttention(const at::Tensor& x, const PixelAttentionWeights& weights, int64_t groups) {
  const at::Tensor pixels = GroupNorm(x, weights.norm, groups).flatten(2).transpose(1, 2);
  const std::vector<at::Tensor> qkv = weights.qkv.Tokens(pixels).chunk(3, -1);
  const at::Tensor mixed =
      at::scaled_dot_product_attention(qkv[0].unsqueeze(1), qkv[1].unsqueeze(1), qkv[2].unsqueeze(1));
  const at::Tensor out = weights.out.Tokens(mixed.squeeze(1));
  return out.transpose(1, 2).reshape(x.sizes()).add_(x);
}

at::Tensor RunMidBlock(at::Tensor x, const MidBlockWeights& weights, int64_t groups) {
  x = RunResnet(x, weights.first, groups);
  if (weights.attention) x = RunAttention(x, *weights.attention, groups);
  return RunResnet(x, weights.second, groups);
}

at::Tensor Upsample(const at::Tensor& x, const Conv& conv) {
  return Convolve(at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)}), conv);
}

// Padded on the right and below only.
at::Tensor Downsample(const at::Tensor& x, const Conv& conv) {
  return Convolve(at::constant_pad_nd(x, {0, 1, 0, 1}), conv, /*stride=*/2, /*padding=*/0);
}

using Resample = at::Tensor (*)(const at::Tensor&, const Conv&);

at::Tensor RunResolution(at::Tensor x, const ResolutionWeights& weights, int64_t groups, Resample resample) {
  for (const ResnetWeights& resnet : weights.resnets) x = RunResnet(x, resnet, groups);
  return weights.resample.weight.defined() ? resample(x, weights.resample) : x;
}

at::Tensor RunOut(const at::Tensor& x, const CoderWeights& weights, int64_t groups) {
  return Convolve(NormSilu(x, weights.norm_out, groups), weights.out);
}

}  // namespace

absl::StatusOr<Autoencoder> Autoencoder::Load(const std::string& dir, const Placement& placement) {
  Autoencoder model;
  FRESCO_ASSIGN_OR_RETURN(model.config_, ReadAutoencoderConfig(dir));
  FRESCO_ASSIGN_OR_RETURN(WeightStore store, WeightStore::Open(dir, kDiffusersStem));
  WeightReader reader(std::move(store), placement);
  model.weights_ = std::make_shared<AutoencoderWeights>(ReadAutoencoderWeights(model.config_, &reader));
  FRESCO_RETURN_IF_ERROR(reader.status());
  model.placement_ = placement;
  model.weight_bytes_ = reader.bytes();
  return model;
}

at::Tensor Autoencoder::ToTransformer(const at::Tensor& z) const {
  return (z - config_.shift_factor) * config_.scaling_factor;
}

at::Tensor Autoencoder::FromTransformer(const at::Tensor& latents) const {
  return latents / config_.scaling_factor + config_.shift_factor;
}

namespace {

// One sample at a time: a convolution over a whole image leaves no core idle, so that a batch would only take memory;
// and where group norms of the channels-last layout divide a sample among threads depends on the batch, and with it the
// last bits.
template <typename Run>
at::Tensor ForEachSample(const at::Tensor& batch, const Run& run) {
  std::vector<at::Tensor> results;
  for (int64_t i = 0; i < batch.size(0); ++i) {
    results.push_back(run(batch.narrow(0, i, 1).contiguous(at::MemoryFormat::ChannelsLast)));
  }
  return results.size() == 1 ? results.front() : at::cat(results);
}

void Observe(const Observer& observer, const std::string& name, const at::Tensor& value) {
  if (observer) observer(name, value);
}

}  // namespace

at::Tensor Autoencoder::Decode(const at::Tensor& z, const Observer& observer) const {
  const CoderWeights& decoder = weights_->decoder;
  const int64_t groups = config_.norm_num_groups;
  return ForEachSample(z, [&](at::Tensor x) {
    if (config_.use_post_quant_conv) x = Convolve1x1(x, weights_->post_quant);
    x = Convolve(x, decoder.in);
    Observe(observer, "conv_in", x);
    x = RunMidBlock(x, decoder.mid, groups);
    Observe(observer, "mid_block", x);
    for (size_t i = 0; i < decoder.blocks.size(); ++i) {
      x = RunResolution(x, decoder.blocks[i], groups, &Upsample);
      Observe(observer, StrCat("up_block.", i), x);
    }
    x = RunOut(x, decoder, groups);
    Observe(observer, "image", x);
    return x;
  });
}

Autoencoder::Posterior Autoencoder::Encode(const at::Tensor& images, const Observer& observer) const {
  const CoderWeights& encoder = weights_->encoder;
  const int64_t groups = config_.norm_num_groups;
  const at::Tensor moments = ForEachSample(images, [&](at::Tensor x) {
    x = Convolve(x, encoder.in);
    Observe(observer, "conv_in", x);
    for (size_t i = 0; i < encoder.blocks.size(); ++i) {
      x = RunResolution(x, encoder.blocks[i], groups, &Downsample);
      Observe(observer, StrCat("down_block.", i), x);
    }
    x = RunMidBlock(x, encoder.mid, groups);
    Observe(observer, "mid_block", x);
    x = RunOut(x, encoder, groups);
    if (config_.use_quant_conv) x = Convolve1x1(x, weights_->quant);
    Observe(observer, "moments", x);
    return x;
  });
  const std::vector<at::Tensor> halves = moments.chunk(2, 1);
  return {halves[0], at::clamp(halves[1], -30.0, 20.0)};
}

}  // namespace fresco
