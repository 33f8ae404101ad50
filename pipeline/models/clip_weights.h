// The weights of a CLIP text encoder under the names that transformers gives them.
#pragma once

#include <vector>

#include "pipeline/models/clip.h"
#include "pipeline/models/layers.h"
#include "pipeline/models/weight_reader.h"

namespace fresco {

struct ClipWeights {
  struct Layer {
    Norm norm1, norm2;
    Linear qkv;  // D → 3 D
    Linear out;  // D → D
    Linear up;   // D → intermediate
    Linear down;
  };

  at::Tensor tokens;     // [vocab, D]
  at::Tensor positions;  // [max_positions, D]
  std::vector<Layer> layers;
  Norm final_norm;
  Linear projection;  // D → P, no bias
};

// Incomplete where reader->status() is not OK afterwards.
ClipWeights ReadClipWeights(const ClipConfig& config, WeightReader* reader);

}  // namespace fresco
