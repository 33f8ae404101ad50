// The attention of the transformer's blocks: from queries, keys and values to their mixtures, before the output
// projections. May throw libtorch's exceptions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "pipeline/models/mmdit_weights.h"
#include "pipeline/models/packed_tokens.h"

namespace fresco {

// Image and text tokens attend to all of both. image [B, N, 3 D], or [1, M, 3 D] where `packed` says whose tokens they
// are (null: each sample has as many), text [B, T, 3 D]; their mixtures are as they are, of width D.
struct JointMixture {
  at::Tensor image, text;
};
JointMixture JointAttention(const at::Tensor& image, const at::Tensor& text, const MmditBlock& block, int64_t heads,
                            const PackedTokens* packed);

// Image tokens attend to each other: qkv [B, N, 3 D], or packed, to [B, N, D]. On a GPU qkv is normalised in place.
at::Tensor ImageAttention(const at::Tensor& qkv, const MmditAttention& weights, int64_t heads,
                          const PackedTokens* packed);

}  // namespace fresco
