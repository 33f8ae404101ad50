// T5 v1.1 encoder (gated GELU), as transformers' T5EncoderModel computes it; docs/facts/sd35.md, Text.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/models/layers.h"
#include "pipeline/models/linear_info.h"
#include "pipeline/models/observer.h"
#include "pipeline/models/placement.h"
#include "pipeline/precision/layer_table.h"

namespace fresco {

// config.json of a T5 encoder.
struct T5Config {
  int64_t d_model = 0;  // D
  int64_t d_kv = 0;     // of one head
  int64_t d_ff = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t vocab_size = 0;
  int64_t relative_buckets = 32;
  int64_t relative_max_distance = 128;
  double layer_norm_eps = 1e-6;
};

// Reads `dir`/config.json. NOT_FOUND where it is missing; INVALID_ARGUMENT, naming file and key, for what is not such a
// configuration or asks for another feed-forward than gated GELU.
absl::StatusOr<T5Config> ReadT5Config(const std::string& dir);

struct T5Weights;
class WeightReader;

// Immutable and thread-safe once loaded (see ClipTextModel).
class T5Encoder {
 public:
  // As Mmdit::Load. In fp16 the feed-forward's down-projections stay in fp32, and with them the residual, as in
  // transformers: their results leave fp16's range.
  static absl::StatusOr<T5Encoder> Load(const T5Config& config, WeightStore weights, const Placement& placement,
                                        const LayerTable& layers = {}, const LinearObservers& observers = {});
  static absl::StatusOr<T5Encoder> Load(const std::string& dir, const Placement& placement,
                                        const LayerTable& layers = {});

  // One that does not hold its weights: every Encode reads them from the mapped files, block by block, each of which is
  // gone before the next comes. Slow, and the results are the same. Errors of reading are exceptions of Encode; those
  // that Load would find are not looked for.
  static absl::StatusOr<T5Encoder> Streamed(const T5Config& config, WeightStore weights, const Placement& placement,
                                            const LayerTable& layers = {}, const LinearObservers& observers = {});
  // As Mmdit::Shape.
  static absl::StatusOr<T5Encoder> Shape(const T5Config& config, const Placement& placement,
                                         const LayerTable& layers = {});

  // ids: [B, T] int64, values in [0, vocab_size). Returns [B, T, D] in the placement's type. There is no attention
  // mask: pads are attended to. A row's result does not depend on the other rows. Throws libtorch's exceptions; call it
  // under InferenceMode. Observed stages: "embeddings", "block.N", "final_layer_norm".
  at::Tensor Encode(const at::Tensor& ids, const Observer& observer = {}) const;

  // What Encode holds at the most besides its inputs, in bytes, its result included; `threads`: that compute on a CPU.
  int64_t EncodeBytes(int64_t texts, int64_t tokens, int threads) const;

  // Bytes of weights that are there at once where it is streamed.
  int64_t streamed_bytes() const;

  const T5Config& config() const { return config_; }
  const Placement& placement() const { return placement_; }
  // Every linear, and what it is computed in.
  const std::vector<LinearInfo>& linears() const { return linears_; }
  int64_t weight_bytes() const { return weight_bytes_; }

 private:
  T5Encoder() = default;
  static absl::StatusOr<T5Encoder> Read(const T5Config& config, WeightReader reader);
  at::Tensor EncodeStreamed(const at::Tensor& ids, const Observer& observer) const;

  T5Config config_;
  Placement placement_;
  int64_t weight_bytes_ = 0;
  std::vector<LinearInfo> linears_;
  std::function<WeightReader()> stream_;  // null: the weights are there
  std::shared_ptr<const T5Weights> weights_;
};

}  // namespace fresco
