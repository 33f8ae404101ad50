// A transformer of the family's shape that a test makes in a moment.
#pragma once

#include <cstdint>

#include "pipeline/models/mmdit_config.h"

namespace fresco {

inline MmditConfig SmallTransformer(int64_t pos_embed_max_size) {
  MmditConfig config;
  config.num_layers = 2;
  config.num_heads = 2;
  config.head_dim = 16;
  config.joint_attention_dim = 24;
  config.pooled_projection_dim = 8;
  config.pos_embed_max_size = pos_embed_max_size;
  config.patch_size = 2;
  config.in_channels = config.out_channels = 4;
  config.sample_size = 8;
  config.dual_attention_layers = {0};
  config.qk_norm = true;
  return config;
}

}  // namespace fresco
