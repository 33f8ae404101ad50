// The transformer of Stable Diffusion 3 and 3.5 (MMDiT, MMDiT-X), as diffusers' SD3Transformer2DModel computes it;
// docs/facts/sd35.md, Transformer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/models/layers.h"
#include "pipeline/models/linear_info.h"
#include "pipeline/models/mmdit_config.h"
#include "pipeline/models/observer.h"
#include "pipeline/models/placement.h"
#include "pipeline/precision/layer_table.h"

namespace fresco {

struct MmditWeights;
class PackedTokens;
class PositionTable;
class WeightReader;

// Immutable and thread-safe once loaded (see ClipTextModel), but for a guarded, bounded cache of position embeddings by
// size.
class Mmdit {
 public:
  // As ClipTextModel::Load. `observers` are told what every linear but the embedding of patches is given.
  static absl::StatusOr<Mmdit> Load(const MmditConfig& config, WeightStore weights, const Placement& placement,
                                    const LayerTable& layers = {}, const LinearObservers& observers = {});
  static absl::StatusOr<Mmdit> Load(const std::string& dir, const Placement& placement, const LayerTable& layers = {});

  // Random weights of a shape, made on the device: for measuring speed without a checkpoint. May throw libtorch's
  // exceptions.
  static absl::StatusOr<Mmdit> Random(const MmditConfig& config, const Placement& placement,
                                      const LayerTable& layers = {});

  // Shapes and types alone, as they would be at `placement` (WeightReader::OfShapes): it computes nothing, but knows
  // its bytes.
  static absl::StatusOr<Mmdit> Shape(const MmditConfig& config, const Placement& placement,
                                     const LayerTable& layers = {});

  // latents [B, C, H, W] and text [B, T, J] and pooled [B, P] in the placement's type, timesteps [B] fp32 in 0..1000
  // (may be fractional, each sample its own), all on the placement's device; H and W multiples of patch_size, at most
  // pos_embed_max_size * patch_size. Returns the velocity [B, C, H, W] in the placement's type. Each sample's result is
  // the same, bit for bit, whatever the rest of the batch and its size (on the CPU). Throws libtorch's exceptions; call
  // it under InferenceMode. Observed stages: "patches" (with positions [B, N, D]), "temb" [B, D], "context"
  // [B, T, D], "block.N.image", "block.N.context" (but for the last block), "norm_out" (before the output projection),
  // "output".
  at::Tensor Forward(const at::Tensor& latents, const at::Tensor& text, const at::Tensor& pooled,
                     const at::Tensor& timesteps, const Observer& observer = {}) const;

  // The same of latents of several shapes [B_i, C, H_i, W_i], at least one of them: the samples' other inputs follow in
  // that order. Returns a velocity for each of `latents`. Where H_i * W_i differ, the samples' tokens are packed
  // (packed_tokens.h): the products are over all of them, as they are, and none is filled up. Neighbours of one area
  // share their attention. (On a CPU whose products depend on their number of rows each size is computed by itself.)
  std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                                  const at::Tensor& pooled, const at::Tensor& timesteps,
                                  const Observer& observer = {}) const;

  // What the adaptive norms are given: functions of a sample's timestep and pooled text alone. A row for each sample.
  struct Modulations {
    at::Tensor blocks;    // [B, all blocks' parts · D]
    at::Tensor norm_out;  // [B, 2 D]
  };
  // Forward's pooled and timesteps; of any samples, of many steps too: on a GPU all of them are one product, which
  // reads a third of the model's weights once. Each row is the same, bit for bit, whatever the others are (on the CPU).
  Modulations Modulate(const at::Tensor& pooled, const at::Tensor& timesteps, const Observer& observer = {}) const;
  int64_t modulation_bytes() const;  // of a row

  // As above, with what Modulate has given for the samples.
  std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                                  const Modulations& modulations, const Observer& observer = {}) const;

  // The positions that Forward adds to latents of these sizes, [1, N, D] each. They are where they are as long as
  // somebody has them, for whoever has recorded a forward that reads them.
  std::vector<at::Tensor> Positions(const std::vector<at::Tensor>& latents) const;

  // What Forward holds at the most besides its inputs, in bytes, its result included; `threads`: that compute on a CPU.
  struct ForwardShape {
    int64_t samples = 1;
    int64_t height = 0, width = 0;  // of the latents
    int64_t text_tokens = 0;
  };
  int64_t ForwardBytes(const ForwardShape& shape, int threads) const;
  // The same of samples of several shapes: rather too much where they differ.
  int64_t ForwardBytes(const std::vector<ForwardShape>& shapes, int threads) const;
  // What loading holds at the most beyond the weights: on a CPU the largest product is there twice for a moment, before
  // and after it is laid out. 0 on a GPU, whose weights are put together on the host.
  int64_t loading_bytes() const;
  // What stays of it: the positions of a size.
  int64_t KeptBytes(const ForwardShape& shape) const;

  const MmditConfig& config() const { return config_; }
  const Placement& placement() const { return placement_; }
  // Every linear, and what it is computed in.
  const std::vector<LinearInfo>& linears() const { return linears_; }
  int64_t weight_bytes() const { return weight_bytes_; }  // on the device; the position table stays in its file

 private:
  Mmdit() = default;
  static absl::StatusOr<Mmdit> Read(const MmditConfig& config, WeightReader reader);
  // Of latents of several shapes, the tokens [B, N, D] with their positions, [1, M, D] where they are packed, and back.
  at::Tensor Embed(const std::vector<at::Tensor>& latents, const PackedTokens* packed) const;
  std::vector<at::Tensor> Unpatch(const at::Tensor& tokens, const std::vector<at::Tensor>& latents,
                                  const PackedTokens* packed) const;
  // `modulate` is called between the embedding of the latents and that of the text.
  template <typename Given>
  std::vector<at::Tensor> Run(const std::vector<at::Tensor>& latents, const at::Tensor& text, const Given& modulate,
                              const Observer& observer) const;
  std::vector<at::Tensor> RunApart(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                                   const Modulations& given, const Observer& observer) const;
  int64_t TokenBytes() const;  // of one token of a stream
  at::Tensor RunBlocks(at::Tensor image, at::Tensor text, const PackedTokens* packed, const Modulations& given,
                       const Observer& observer) const;

  MmditConfig config_;
  Placement placement_;
  int64_t weight_bytes_ = 0;
  std::vector<LinearInfo> linears_;
  std::shared_ptr<const MmditWeights> weights_;
  std::shared_ptr<PositionTable> positions_;
};

}  // namespace fresco
