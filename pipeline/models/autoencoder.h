// The variational autoencoder between images and latents, as diffusers' AutoencoderKL has it; docs/facts/sd35.md, VAE.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/models/autoencoder_options.h"
#include "pipeline/models/observer.h"
#include "pipeline/models/placement.h"
#include "pipeline/precision/saturation.h"

namespace fresco {

// vae/config.json.
struct AutoencoderConfig {
  int64_t image_channels = 3;
  int64_t latent_channels = 0;              // C
  std::vector<int64_t> block_out_channels;  // from the image inwards
  int64_t layers_per_block = 2;
  int64_t norm_num_groups = 32;
  bool use_quant_conv = false;
  bool use_post_quant_conv = false;
  bool mid_block_attention = true;
  double scaling_factor = 1.0;
  double shift_factor = 0.0;

  int64_t downscale() const { return int64_t{1} << (block_out_channels.size() - 1); }  // pixels a latent's side
};

// Reads `dir`/config.json. NOT_FOUND where it is missing; INVALID_ARGUMENT, naming file and key, for what is not such a
// configuration or asks for other blocks or another activation than the real ones.
absl::StatusOr<AutoencoderConfig> ReadAutoencoderConfig(const std::string& dir);

struct AutoencoderWeights;
class WeightReader;

// Immutable and thread-safe once loaded (see ClipTextModel).
class Autoencoder {
 public:
  struct Posterior {
    at::Tensor mean;    // [B, C, H / downscale, W / downscale], as the encoder gives it: not scaled for the transformer
    at::Tensor logvar;  // likewise, clamped to [-30, 20]
  };

  // As ClipTextModel::Load, and INVALID_ARGUMENT for a tile size that the model's latents do not divide. `saturation`:
  // told of every activation tensor in FP8; null: nobody asks.
  static absl::StatusOr<Autoencoder> Load(const AutoencoderConfig& config, WeightStore store,
                                          const Placement& placement, const VaeOptions& options = {},
                                          std::shared_ptr<SaturationCount> saturation = nullptr);
  static absl::StatusOr<Autoencoder> Load(const std::string& dir, const Placement& placement,
                                          const VaeOptions& options = {},
                                          std::shared_ptr<SaturationCount> saturation = nullptr);

  // Shapes and types alone, as they would be at `placement`: it decodes nothing, but knows its bytes.
  static absl::StatusOr<Autoencoder> Shape(const AutoencoderConfig& config, const Placement& placement,
                                           const VaeOptions& options = {});

  // Between the autoencoder's latents z and those the transformer works on: (z - shift_factor) * scaling_factor and
  // back.
  at::Tensor ToTransformer(const at::Tensor& z) const;
  at::Tensor FromTransformer(const at::Tensor& latents) const;

  // z [B, C, h, w] of the autoencoder (see FromTransformer), in the placement's type → images [B, 3, h * downscale,
  // w * downscale], about -1..1 and not clamped; strides may be channels-last. B, h and w at least 1.
  //
  // Sliced: samples are decoded one after the other, so that of a batch only the images themselves take more memory,
  // and a sample does not depend on the rest of the batch. Tiled where Tiles says so: then what a tile takes is all.
  //
  // Throws libtorch's exceptions; call it under InferenceMode. Observed stages, of one sample (or tile) after the
  // other: "conv_in", "mid_block", "up_block.N", "image".
  at::Tensor Decode(const at::Tensor& z, const Observer& observer = {}) const;

  // A sample, or a tile of one: x [1, C, h, w], channels-last → its image, as Decode's, in memory of its own.
  at::Tensor DecodeWhole(at::Tensor x, const Observer& observer = {}) const;
  // As Decode, where `whole` does what DecodeWhole does, with each sample (or tile) after the other.
  at::Tensor DecodeBy(const at::Tensor& z, const std::function<at::Tensor(const at::Tensor& x)>& whole) const;

  // images [B, 3, H, W], -1..1, H and W multiples of downscale. Sliced and tiled as Decode. Observed stages, of one
  // sample (or tile) after the other: "conv_in", "down_block.N", "mid_block", "moments".
  Posterior Encode(const at::Tensor& images, const Observer& observer = {}) const;

  // What Decode of one picture holds at the most besides its latents, in bytes, its result included; `threads`: that
  // compute on a CPU.
  int64_t DecodeBytes(int64_t height, int64_t width, int threads) const;

  // Whether pictures of so many pixels are computed in tiles.
  bool Tiles(int64_t height, int64_t width) const;

  const AutoencoderConfig& config() const { return config_; }
  const Placement& placement() const { return placement_; }
  const VaeOptions& options() const { return options_; }
  int64_t weight_bytes() const { return weight_bytes_; }

 private:
  Autoencoder() = default;
  // `path`: for errors.
  static absl::StatusOr<Autoencoder> Read(const AutoencoderConfig& config, const std::string& path, WeightReader reader,
                                          const VaeOptions& options, std::shared_ptr<SaturationCount> saturation);
  at::Tensor EncodeWhole(at::Tensor x, const Observer& observer) const;

  AutoencoderConfig config_;
  Placement placement_;
  VaeOptions options_;
  int64_t weight_bytes_ = 0;
  std::shared_ptr<const AutoencoderWeights> weights_;
};

}  // namespace fresco
