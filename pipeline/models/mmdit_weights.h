// The transformer's weights under the names that diffusers gives them.
#pragma once

#include <string>
#include <vector>

#include "pipeline/models/layers.h"
#include "pipeline/models/mmdit_config.h"
#include "pipeline/models/weight_reader.h"

namespace fresco {

// What turns one stream's tokens into queries, keys and values, and their mixture back.
struct MmditAttention {
  Linear qkv;                 // D → 3 D
  Linear out;                 // D → D; undefined for the last block's context
  at::Tensor norm_q, norm_k;  // [head_dim], or undefined
};

struct MmditFeedForward {
  Linear up;    // D → 4 D
  Linear down;  // 4 D → D
};

struct MmditBlock {
  Linear modulation;          // D → 6 D, with dual attention 9 D
  Linear context_modulation;  // D → 6 D, in the last block 2 D
  MmditAttention attention, context_attention;
  MmditAttention dual;  // self-attention of the image; undefined tensors where the block has none
  MmditFeedForward feed_forward;
  MmditFeedForward context_feed_forward;  // undefined tensors in the last block

  bool has_dual() const { return dual.qkv.weight.defined(); }
  bool is_last() const { return !context_feed_forward.up.weight.defined(); }
};

struct MmditWeights {
  Linear patch;  // C · p · p → D: the patch convolution, whose kernels do not overlap
  Linear timestep_1, timestep_2;
  Linear pooled_1, pooled_2;
  Linear context;  // J → D
  std::vector<MmditBlock> blocks;
  Linear out_modulation;  // D → 2 D
  Linear out;             // D → p · p · C
  at::Tensor positions;   // [1, max², D] as stored, on the host
};

// Incomplete where reader->status() is not OK afterwards.
MmditWeights ReadMmditWeights(const MmditConfig& config, WeightReader* reader);

}  // namespace fresco
