// CLIP text encoders (CLIP-L and CLIP-G), as transformers' CLIPTextModelWithProjection computes them;
// docs/facts/sd35.md, Text.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/models/observer.h"
#include "pipeline/models/placement.h"

namespace fresco {

enum class ClipActivation { kQuickGelu, kGelu };

// config.json of a text encoder.
struct ClipConfig {
  int64_t hidden_size = 0;        // D
  int64_t intermediate_size = 0;  // of the feed-forward
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t projection_dim = 0;  // P
  int64_t vocab_size = 0;
  int64_t max_positions = 0;  // longest T
  int64_t eos_token_id = 2;   // 2: a wrong value that old configurations carry, see Encode
  double layer_norm_eps = 1e-5;
  ClipActivation activation = ClipActivation::kQuickGelu;
};

// Reads `dir`/config.json. NOT_FOUND where it is missing; INVALID_ARGUMENT, naming file and key, for what is not such a
// configuration or asks for another activation.
absl::StatusOr<ClipConfig> ReadClipConfig(const std::string& dir);

struct ClipWeights;
class WeightReader;

// Immutable and thread-safe once loaded, but libtorch's thread count is one per process: one computing thread per
// device.
class ClipTextModel {
 public:
  struct Output {
    at::Tensor hidden;  // [B, T, D]: the state after all layers but the last 1 + clip_skip, without the final LayerNorm
    at::Tensor pooled;  // [B, P]: the final LayerNorm's state at the end-of-text token, projected
  };

  // `weights`: under diffusers' names. INVALID_ARGUMENT, naming file and tensor, for one that is missing or has another
  // shape than `config` asks for, UNIMPLEMENTED for a type that is not computed with. Throws libtorch's exceptions.
  static absl::StatusOr<ClipTextModel> Load(const ClipConfig& config, WeightStore weights, const Placement& placement);
  // From a component folder: also errors of ReadClipConfig and of WeightStore::Open.
  static absl::StatusOr<ClipTextModel> Load(const std::string& dir, const Placement& placement);

  // Shapes and types alone, as they would be at `placement`: it encodes nothing, but knows its bytes.
  static absl::StatusOr<ClipTextModel> Shape(const ClipConfig& config, const Placement& placement);

  // ids: [B, T] int64 on any device, values in [0, vocab_size), T <= max_positions. 0 <= clip_skip < num_layers.
  // The end of the text is at argmax(ids) where eos_token_id is 2, else at the first id equal to eos_token_id (the
  // first token where there is none). A row's result does not depend on the other rows. Throws libtorch's exceptions;
  // call it under InferenceMode. Observed stages: "embeddings", "layer.N", "final_layer_norm", "pooled".
  Output Encode(const at::Tensor& ids, int clip_skip, const Observer& observer = {}) const;

  // What Encode holds at the most besides its inputs, in bytes, its result included; `threads`: that compute on a CPU.
  int64_t EncodeBytes(int64_t texts, int64_t tokens, int threads) const;

  const ClipConfig& config() const { return config_; }
  const Placement& placement() const { return placement_; }
  int64_t weight_bytes() const { return weight_bytes_; }  // as placed

 private:
  ClipTextModel() = default;
  static absl::StatusOr<ClipTextModel> Read(const ClipConfig& config, WeightReader reader);

  ClipConfig config_;
  Placement placement_;
  int64_t weight_bytes_ = 0;
  std::shared_ptr<const ClipWeights> weights_;
};

}  // namespace fresco
