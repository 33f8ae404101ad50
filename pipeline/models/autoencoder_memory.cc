// What Autoencoder::Decode holds: autoencoder.cc and its tiling, played through by shapes.
#include <algorithm>
#include <cstdint>
#include <utility>

#include "pipeline/models/autoencoder.h"
#include "pipeline/models/autoencoder_weights.h"
#include "pipeline/models/layer_memory.h"
#include "pipeline/precision/group_norm.h"

namespace fresco {
namespace {

using Held = ActivationLedger::Held;

constexpr int64_t kFp8Piece = 1 << 24;  // fp8_conv.cc's

// A tensor [1, channels, height, width].
struct Plane {
  Held held;
  int64_t channels = 0, height = 0, width = 0;

  int64_t pixels() const { return height * width; }
};

class DecoderMemory {
 public:
  DecoderMemory(LayerMemory* layers, const AutoencoderConfig& config) : layers_(*layers), config_(config) {}

  Plane New(int64_t channels, int64_t height, int64_t width) {
    return {layers_.Hold(channels * height * width), channels, height, width};
  }

  // On a CPU the weight is laid out for the processor's convolutions. On a GPU image and weight are laid out as cuDNN
  // takes them; as much stands for its workspace, which it alone knows.
  Plane Convolve(const Plane& x, const Conv& conv) {
    const Held weight = layers_.Hold(conv.weight.numel());
    return New(conv.weight.size(0), x.height, x.width);
  }

  // Of what a norm gives, which libtorch's on a GPU does not give channels-last: it is laid out anew.
  Plane ConvolveNormed(const Plane& x, const Conv& conv) {
    Held laid_out;
    if (LaysOut(x)) laid_out = layers_.Hold(x.channels * x.pixels());
    return Convolve(x, conv);
  }

  // `own`: the input is the layer's, and goes before the result of FP8 is there.
  Plane Convolve(Plane x, bool own, const BlockConv& conv) {
    if (!conv.fp8) return own ? ConvolveNormed(x, conv.high) : Convolve(x, conv.high);
    const int64_t out = conv.fp8->outputs(), elements = x.channels * x.pixels();
    const Held codes = layers_.Hold(elements);
    // A piece in fp32, and its codes.
    if (!layers_.on_cpu()) layers_.ledger().Touch(std::min(kFp8Piece, elements) * (LayerMemory::kFloat + 1));
    if (own) x.held.Release();
    const Held weight = layers_.Hold(2 * conv.fp8->parameters());  // expanded, and in that layout
    return New(out, x.height, x.width);
  }

  Plane NormSilu(const Plane& x) {
    Held beside;
    if (LaysOut(x)) {
      beside = layers_.Hold(x.channels * x.pixels());
    } else if (!layers_.on_cpu()) {
      beside = layers_.ledger().Hold(GroupNormScratchBytes(x.pixels(), x.channels));
    }
    return New(x.channels, x.height, x.width);
  }

  // x is the caller's.
  Plane Resnet(const Plane& x, const ResnetWeights& weights) {
    Plane y = Convolve(NormSilu(x), true, weights.conv1);
    y = NormSilu(y);
    y = Convolve(std::move(y), true, weights.conv2);
    if (weights.shortcut.defined()) {
      const Plane shortcut = Convolve({{}, x.channels, x.height, x.width}, false, weights.shortcut);
    }
    return y;
  }

  Plane Attention(const Plane& x, const PixelAttentionWeights& weights) {
    const int64_t pixels = x.pixels();
    const Plane normed = NormSilu(x);
    const Held qkv = Pixels(weights.qkv, x);
    const Held mixed = layers_.Attention({1, 1, x.channels, pixels, pixels}, /*plain=*/false);
    const Held out = Pixels(weights.out, x);
    return New(x.channels, x.height, x.width);
  }

  Plane Middle(Plane x, const MidBlockWeights& weights) {
    x = Resnet(x, weights.first);
    if (weights.attention) x = Attention(x, *weights.attention);
    return Resnet(x, weights.second);
  }

  Plane Resolution(Plane x, const ResolutionWeights& weights) {
    for (const ResnetWeights& resnet : weights.resnets) x = Resnet(x, resnet);
    if (!weights.resample.defined()) return x;
    return Convolve(New(x.channels, 2 * x.height, 2 * x.width), true, weights.resample);
  }

  // Of a whole picture, or of a tile: of latents of such a size.
  Plane Whole(const CoderWeights& decoder, int64_t height, int64_t width) {
    Plane x = New(config_.latent_channels, height, width);  // channels-last
    Plane first = Convolve(x, decoder.in);
    Plane y = Middle(std::move(first), decoder.mid);
    for (const ResolutionWeights& block : decoder.blocks) y = Resolution(std::move(y), block);
    const Plane normed = NormSilu(y);
    return ConvolveNormed(normed, decoder.out);
  }

  // The picture's finish: whether it is finite, and its levels.
  void ToImage(const Plane& pixels) {
    layers_.ledger().Touch(pixels.channels * pixels.pixels() * 2 * LayerMemory::kFloat);
  }

 private:
  // Whether a norm of it is computed, on a GPU, without a kernel that takes it as it is.
  bool LaysOut(const Plane& x) const { return !layers_.on_cpu() && !layers_.has_row_kernels(x.channels); }

  Held Pixels(const PixelLinear& linear, const Plane& x) {
    if (!linear.fp8) return layers_.Tokens(linear.high, 1, x.pixels());
    return Convolve({{}, x.channels, x.height, x.width}, false, BlockConv{{}, linear.fp8}).held;
  }

  LayerMemory& layers_;
  const AutoencoderConfig& config_;
};

}  // namespace

int64_t Autoencoder::DecodeBytes(int64_t height, int64_t width, int threads) const {
  const int64_t pixels = config_.downscale();
  ActivationLedger ledger;
  LayerMemory layers(&ledger, placement_, threads);
  DecoderMemory decoder(&layers, config_);
  const Plane latents = decoder.New(config_.latent_channels, height / pixels, width / pixels);
  if (!Tiles(height, width)) {
    decoder.ToImage(decoder.Whole(weights_->decoder, latents.height, latents.width));
    return ledger.peak();
  }
  // The first tile is the largest; the next one meets the result, its left neighbour's seam and those of a row.
  const int64_t tile = options_.tile_size, tall = std::min(tile, height), wide = std::min(tile, width);
  const Plane result = decoder.New(config_.image_channels, height, width);
  const Held above = layers.Hold(config_.image_channels * (tile / 4) * (width + width / 3));
  const Held left = layers.Hold(config_.image_channels * (tile / 4) * tall);
  static_cast<void>(decoder.Whole(weights_->decoder, tall / pixels, wide / pixels));
  decoder.ToImage(result);
  return ledger.peak();
}

}  // namespace fresco
