// The transformer's weights under the names that diffusers gives them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "pipeline/models/layers.h"
#include "pipeline/models/mmdit_config.h"
#include "pipeline/models/weight_reader.h"

namespace fresco {

// Of every normalisation.
inline constexpr double kMmditEps = 1e-6;

// What turns one stream's tokens into queries, keys and values, and their mixture back.
struct MmditAttention {
  Linear qkv;                                              // D → 3 D
  Linear out;                                              // D → D; undefined for the last block's context
  at::Tensor norm_q, norm_k;                               // [head_dim], or undefined
  std::shared_ptr<const DeviceKernels> kernels = nullptr;  // of the placement, for the attention itself
  AttentionScheme scheme = AttentionScheme::kHigh;         // likewise
};

struct MmditFeedForward {
  Linear up;    // D → 4 D
  Linear down;  // 4 D → D
};

struct MmditBlock {
  MmditAttention attention, context_attention;
  MmditAttention dual;  // self-attention of the image; undefined tensors where the block has none
  MmditFeedForward feed_forward;
  MmditFeedForward context_feed_forward;  // undefined tensors in the last block

  int64_t image_parts() const { return has_dual() ? 9 : 6; }  // of the modulation, D each
  int64_t text_parts() const { return is_last() ? 2 : 6; }
  bool has_dual() const { return dual.qkv.defined(); }
  bool is_last() const { return !context_feed_forward.up.defined(); }
};

struct MmditWeights {
  Linear patch;  // C · p · p → D: the patch convolution, whose kernels do not overlap
  Linear timestep_1, timestep_2;
  Linear pooled_1, pooled_2;
  Linear context;  // J → D
  std::vector<MmditBlock> blocks;
  // All blocks' adaptive norms' linears in one, D → parts · D. They have one input, and are a third of the weights but
  // one row of work per sample: one product costs less than two per block. In order, per block image_parts() and
  // text_parts().
  Linear modulation;
  Linear norm_out;       // D → 2 D: scale, shift of the final norm
  Linear out;            // D → p · p · C
  at::Tensor positions;  // [1, max², D] as stored, on the host
};

// Incomplete where reader->status() is not OK afterwards.
MmditWeights ReadMmditWeights(const MmditConfig& config, WeightReader* reader);

}  // namespace fresco
