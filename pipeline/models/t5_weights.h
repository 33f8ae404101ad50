// The weights of a T5 encoder under the names that transformers gives them.
#pragma once

#include <vector>

#include "pipeline/models/layers.h"
#include "pipeline/models/t5.h"
#include "pipeline/models/weight_reader.h"

namespace fresco {

struct T5Weights {
  struct Block {
    at::Tensor attention_norm;  // [D]
    Linear qkv;                 // D → 3 · heads · d_kv, no bias (nor has any linear here)
    Linear out;                 // heads · d_kv → D
    at::Tensor ff_norm;         // [D]
    Linear gate_up;             // D → 2 · d_ff: wi_0 (through the GELU), then wi_1
    Linear down;                // d_ff → D; in fp32 where the rest is fp16
  };

  at::Tensor tokens;         // [vocab, D]
  at::Tensor relative_bias;  // [buckets, heads], shared by all blocks
  std::vector<Block> blocks;
  at::Tensor final_norm;  // [D]
};

// Incomplete where reader->status() is not OK afterwards.
T5Weights ReadT5Weights(const T5Config& config, WeightReader* reader);

// In parts, for one who does not hold them all: all but embedding and blocks, and a block.
T5Weights ReadT5Ends(const T5Config& config, WeightReader* reader);
T5Weights::Block ReadT5Block(const T5Config& config, int64_t index, WeightReader* reader);
// The embedding's rows `ids`, whatever their shape.
at::Tensor ReadT5Embeddings(const T5Config& config, const at::Tensor& ids, WeightReader* reader);

}  // namespace fresco
