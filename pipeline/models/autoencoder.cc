#include "pipeline/models/autoencoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/upsample_nearest2d.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/models/autoencoder_tiling.h"
#include "pipeline/models/autoencoder_weights.h"
#include "pipeline/models/layer_work.h"
#include "pipeline/precision/group_norm.h"

namespace fresco {
namespace {

constexpr double kEps = 1e-6;

LayerWork WorkOf(const Conv& conv, const at::Tensor& x, int64_t stride) {
  const auto bytes = static_cast<int64_t>(conv.weight.nbytes() + conv.bias.nbytes());
  return ConvWork({conv.weight.size(0), conv.weight.size(2), stride, bytes}, x);
}

LayerWork WorkOf(const Fp8Conv& conv, const at::Tensor& x, int64_t stride) {
  LayerWork work = ConvWork({conv.out(), conv.kernel(), stride, conv.bytes()}, x);
  work.dtype = "fp8";
  return work;
}

at::Tensor Convolve(const char* name, const at::Tensor& x, const Conv& conv, int64_t stride = 1, int64_t padding = 1) {
  const LayerScope scope(name, [&] { return WorkOf(conv, x, stride); });
  return at::conv2d(x, conv.weight, conv.bias, {stride, stride}, {padding, padding});
}

// By value: what nobody else holds is gone as soon as it is read.
at::Tensor Convolve(const char* name, at::Tensor x, const BlockConv& conv, int64_t stride = 1, int64_t padding = 1) {
  if (!conv.fp8) return Convolve(name, x, conv.high, stride, padding);
  const LayerScope scope(name, [&] { return WorkOf(*conv.fp8, x, stride); });
  return conv.fp8->Convolve(std::move(x), stride, padding);
}

// Without its bias where what comes next adds it, so that nothing goes over the image for that alone.
Unbiased ConvolveUnbiased(const char* name, at::Tensor x, const BlockConv& conv) {
  if (conv.fp8 || !HasImageKernels(x, conv.high.weight.size(0))) return {Convolve(name, std::move(x), conv), {}};
  const LayerScope scope(name, [&] { return WorkOf(conv.high, x, /*stride=*/1); });
  const at::Tensor sums = at::conv2d(x, conv.high.weight, /*bias=*/{}, /*stride=*/{1, 1}, /*padding=*/{1, 1});
  return {sums.contiguous(at::MemoryFormat::ChannelsLast), conv.high.bias};
}

at::Tensor Normed(const char* name, const Unbiased& x, const Norm& norm, int64_t groups, bool silu = false) {
  const LayerScope scope(name, [&] {
    return ElementwiseWork({x.sums, x.bias, norm.weight, norm.bias}, BytesOf(x.sums));
  });
  return GroupNorm(x, {norm.weight, norm.bias, groups, kEps}, silu);
}

at::Tensor NormSilu(const char* name, const Unbiased& x, const Norm& norm, int64_t groups) {
  return Normed(name, x, norm, groups, /*silu=*/true);
}

at::Tensor RunResnet(size_t index, const at::Tensor& x, const ResnetWeights& weights, int64_t groups) {
  const ModuleScope scope("resnets", index);
  Unbiased y = ConvolveUnbiased("conv1", NormSilu("norm1", {x, {}}, weights.norm1, groups), weights.conv1);
  y = {NormSilu("norm2", y, weights.norm2, groups), {}};
  y = ConvolveUnbiased("conv2", std::move(y.sums), weights.conv2);
  return AddImage(y, weights.shortcut.defined() ? Convolve("conv_shortcut", x, weights.shortcut, 1, 0) : x);
}

// x [1, C, H, W] → [1, H W, out].
at::Tensor OverPixels(const char* name, const at::Tensor& x, const PixelLinear& linear) {
  const LayerScope scope(name, [&] {
    return linear.fp8 ? WorkOf(*linear.fp8, x, /*stride=*/1) : LinearWork(linear.high, x.flatten(2).transpose(1, 2));
  });
  if (linear.fp8) return linear.fp8->Convolve(x, /*stride=*/1, /*padding=*/0).flatten(2).transpose(1, 2);
  return linear.high.Tokens(x.flatten(2).transpose(1, 2));
}

at::Tensor OneHead(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const LayerScope scope("attention", [&] { return AttentionWork(q, k, v); });
  return at::scaled_dot_product_attention(q, k, v);
}

// Every pixel attends to all, with one head as wide as the channels.
at::Tensor RunAttention(const at::Tensor& x, const PixelAttentionWeights& weights, int64_t groups) {
  const ModuleScope scope("attentions.0");
  const at::Tensor normed = Normed("group_norm", {x, {}}, weights.norm, groups);
  const std::vector<at::Tensor> qkv = OverPixels("to_q, to_k, to_v", normed, weights.qkv).chunk(3, -1);
  const at::Tensor mixed = OneHead(qkv[0].unsqueeze(1), qkv[1].unsqueeze(1), qkv[2].unsqueeze(1));
  const at::Tensor image = mixed.squeeze(1).transpose(1, 2).unflatten(2, {x.size(2), x.size(3)});
  const at::Tensor out = OverPixels("to_out.0", image, weights.out);
  return out.transpose(1, 2).reshape(x.sizes()).add_(x);
}

at::Tensor RunMidBlock(at::Tensor x, const MidBlockWeights& weights, int64_t groups) {
  const ModuleScope scope("mid_block");
  x = RunResnet(0, x, weights.first, groups);
  if (weights.attention) x = RunAttention(x, *weights.attention, groups);
  return RunResnet(1, x, weights.second, groups);
}

at::Tensor Upsample(const at::Tensor& x, const BlockConv& conv) {
  const auto upsampled = [&] {
    const LayerScope scope("upsamplers.0.nearest", [&] { return ElementwiseWork({x}, 4 * BytesOf(x)); });
    return at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)});
  };
  return Convolve("upsamplers.0.conv", upsampled(), conv);
}

// Padded on the right and below only.
at::Tensor Downsample(const at::Tensor& x, const BlockConv& conv) {
  return Convolve("downsamplers.0.conv", at::constant_pad_nd(x, {0, 1, 0, 1}), conv, /*stride=*/2, /*padding=*/0);
}

using Resample = at::Tensor (*)(const at::Tensor&, const BlockConv&);

at::Tensor RunResolution(at::Tensor x, const ResolutionWeights& weights, int64_t groups, Resample resample) {
  for (size_t i = 0; i < weights.resnets.size(); ++i) x = RunResnet(i, x, weights.resnets[i], groups);
  return weights.resample.defined() ? resample(x, weights.resample) : x;
}

at::Tensor RunOut(const at::Tensor& x, const CoderWeights& weights, int64_t groups) {
  return Convolve("conv_out", NormSilu("conv_norm_out", {x, {}}, weights.norm_out, groups), weights.out);
}

absl::Status CheckTiles(const std::string& path, const AutoencoderConfig& config, const VaeOptions& options) {
  const int64_t multiple = 4 * config.downscale();
  if (options.tile_size > 0 && options.tile_size % multiple == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(path, ": the VAE's tile size of ", options.tile_size,
                                           " pixels is not a multiple of ", multiple, ", which is four latents"));
}

}  // namespace

absl::StatusOr<Autoencoder> Autoencoder::Load(const std::string& dir, const Placement& placement,
                                              const VaeOptions& options, std::shared_ptr<SaturationCount> saturation) {
  FRESCO_ASSIGN_OR_RETURN(const AutoencoderConfig config, ReadAutoencoderConfig(dir));
  FRESCO_ASSIGN_OR_RETURN(WeightStore store, WeightStore::Open(dir, kDiffusersStem));
  return Load(config, std::move(store), placement, options, std::move(saturation));
}

absl::StatusOr<Autoencoder> Autoencoder::Load(const AutoencoderConfig& config, WeightStore store,
                                              const Placement& placement, const VaeOptions& options,
                                              std::shared_ptr<SaturationCount> saturation) {
  const std::string path = store.path();
  return Read(config, path, WeightReader(std::move(store), placement), options, std::move(saturation));
}

absl::StatusOr<Autoencoder> Autoencoder::Shape(const AutoencoderConfig& config, const Placement& placement,
                                               const VaeOptions& options) {
  FRESCO_ASSIGN_OR_RETURN(Autoencoder model, Read(config, "vae", WeightReader::OfShapes(placement), options, nullptr));
  model.placement_ = placement;
  return model;
}

absl::StatusOr<Autoencoder> Autoencoder::Read(const AutoencoderConfig& config, const std::string& path,
                                              WeightReader reader, const VaeOptions& options,
                                              std::shared_ptr<SaturationCount> saturation) {
  FRESCO_RETURN_IF_ERROR(CheckTiles(path, config, options));
  Autoencoder model;
  model.config_ = config;
  auto weights = ReadAutoencoderWeights(model.config_, options, std::move(saturation), &reader);
  FRESCO_RETURN_IF_ERROR(reader.status());
  model.placement_ = reader.placement();
  model.options_ = options;
  model.weight_bytes_ = reader.bytes() + weights.fp8_bytes;
  model.weights_ = std::make_shared<AutoencoderWeights>(std::move(weights));
  return model;
}

at::Tensor Autoencoder::ToTransformer(const at::Tensor& z) const {
  return (z - config_.shift_factor) * config_.scaling_factor;
}

at::Tensor Autoencoder::FromTransformer(const at::Tensor& latents) const {
  return latents / config_.scaling_factor + config_.shift_factor;
}

bool Autoencoder::Tiles(int64_t height, int64_t width) const {
  if (options_.tiling == VaeTiling::kNever || std::max(height, width) <= options_.tile_size) return false;
  return options_.tiling == VaeTiling::kAlways || height * width > VaeOptions::kAutoTilingPixels;
}

namespace {

// One sample at a time: a convolution over a whole image leaves no core idle, so that a batch would only take memory;
// and where group norms of the channels-last layout divide a sample among threads depends on the batch, and with it the
// last bits. Each result goes to its place at once, so that there is no second copy of the batch.
template <typename Run>
at::Tensor ForEachSample(const at::Tensor& batch, const Run& run) {
  at::Tensor results;
  for (int64_t i = 0; i < batch.size(0); ++i) {
    const at::Tensor result = run(batch.narrow(0, i, 1).contiguous(at::MemoryFormat::ChannelsLast));
    if (batch.size(0) == 1) return result;
    if (!results.defined()) {
      std::vector<int64_t> shape = result.sizes().vec();
      shape[0] = batch.size(0);
      results = at::empty(shape, result.options(), result.suggest_memory_format());
    }
    results.narrow(0, i, 1).copy_(result);
  }
  return results;
}

void Observe(const Observer& observer, const std::string& name, const at::Tensor& value) {
  if (observer) observer(name, value);
}

}  // namespace

at::Tensor Autoencoder::DecodeWhole(at::Tensor x, const Observer& observer) const {
  const CoderWeights& decoder = weights_->decoder;
  const ModuleScope scope("decoder");
  const int64_t groups = config_.norm_num_groups;
  if (config_.use_post_quant_conv) x = Convolve("post_quant_conv", x, weights_->post_quant, 1, 0);
  x = Convolve("conv_in", x, decoder.in);
  Observe(observer, "conv_in", x);
  x = RunMidBlock(std::move(x), decoder.mid, groups);
  Observe(observer, "mid_block", x);
  for (size_t i = 0; i < decoder.blocks.size(); ++i) {
    const ModuleScope block("up_blocks", i);
    x = RunResolution(std::move(x), decoder.blocks[i], groups, &Upsample);
    Observe(observer, StrCat("up_block.", i), x);
  }
  x = RunOut(x, decoder, groups);
  Observe(observer, "image", x);
  return x;
}

// x: one picture, [1, 3, H, W], or a tile of it.
at::Tensor Autoencoder::EncodeWhole(at::Tensor x, const Observer& observer) const {
  const CoderWeights& encoder = weights_->encoder;
  const ModuleScope scope("encoder");
  const int64_t groups = config_.norm_num_groups;
  x = Convolve("conv_in", x, encoder.in);
  Observe(observer, "conv_in", x);
  for (size_t i = 0; i < encoder.blocks.size(); ++i) {
    const ModuleScope block("down_blocks", i);
    x = RunResolution(std::move(x), encoder.blocks[i], groups, &Downsample);
    Observe(observer, StrCat("down_block.", i), x);
  }
  x = RunMidBlock(std::move(x), encoder.mid, groups);
  Observe(observer, "mid_block", x);
  x = RunOut(x, encoder, groups);
  if (config_.use_quant_conv) x = Convolve("quant_conv", x, weights_->quant, 1, 0);
  Observe(observer, "moments", x);
  return x;
}

at::Tensor Autoencoder::Decode(const at::Tensor& z, const Observer& observer) const {
  return DecodeBy(z, [&](const at::Tensor& x) { return DecodeWhole(x, observer); });
}

at::Tensor Autoencoder::DecodeBy(const at::Tensor& z,
                                 const std::function<at::Tensor(const at::Tensor& x)>& whole) const {
  const ModuleScope scope("vae");
  const int64_t pixels = config_.downscale(), tile = options_.tile_size;
  const bool tiles = Tiles(z.size(2) * pixels, z.size(3) * pixels);
  return ForEachSample(z, [&](const at::Tensor& x) {
    return tiles ? RunTiled(x, {tile / pixels, tile}, whole) : whole(x);
  });
}

Autoencoder::Posterior Autoencoder::Encode(const at::Tensor& images, const Observer& observer) const {
  const ModuleScope scope("vae");
  const int64_t pixels = config_.downscale(), tile = options_.tile_size;
  const bool tiles = Tiles(images.size(2), images.size(3));
  const auto whole = [&](const at::Tensor& x) { return EncodeWhole(x, observer); };
  const at::Tensor moments = ForEachSample(images, [&](const at::Tensor& x) {
    return tiles ? RunTiled(x, {tile, tile / pixels}, whole) : whole(x);
  });
  const std::vector<at::Tensor> halves = moments.chunk(2, 1);
  return {halves[0], at::clamp(halves[1], -30.0, 20.0)};
}

}  // namespace fresco
