// What shape a Stable Diffusion 3 / 3.5 transformer has. Torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fresco {

// transformer/config.json, in diffusers' words.
struct MmditConfig {
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t head_dim = 0;
  int64_t joint_attention_dim = 0;    // J: features of the text embedding
  int64_t pooled_projection_dim = 0;  // P: features of the pooled text embedding
  int64_t pos_embed_max_size = 0;     // patches a side of the stored position table
  int64_t patch_size = 0;
  int64_t in_channels = 0;
  int64_t out_channels = 0;
  int64_t sample_size = 0;                     // latents a side that it was made for: the default image size
  std::vector<int64_t> dual_attention_layers;  // sorted; empty: none
  bool qk_norm = false;                        // RMSNorm on queries and keys

  int64_t dim() const { return num_heads * head_dim; }
  bool dual_attention(int64_t layer) const;
};

// Reads `dir`/config.json. NOT_FOUND where it is missing; INVALID_ARGUMENT, naming file and key, for what is not such a
// configuration or names another qk_norm than rms_norm.
absl::StatusOr<MmditConfig> ReadMmditConfig(const std::string& dir);

}  // namespace fresco
