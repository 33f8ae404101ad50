// The autoencoder's weights under the names that diffusers gives them.
#pragma once

#include <optional>
#include <vector>

#include "pipeline/models/autoencoder.h"
#include "pipeline/models/layers.h"
#include "pipeline/models/weight_reader.h"

namespace fresco {

struct ResnetWeights {
  Norm norm1, norm2;
  Conv conv1, conv2;
  Conv shortcut;  // 1 × 1; undefined where the channels stay as many
};

// One head over the pixels.
struct PixelAttentionWeights {
  Norm norm;
  Linear qkv;  // C → 3 C
  Linear out;  // C → C
};

struct MidBlockWeights {
  ResnetWeights first, second;
  std::optional<PixelAttentionWeights> attention;
};

// A block of one resolution, and the convolution that leads to the next (undefined in the last block).
struct ResolutionWeights {
  std::vector<ResnetWeights> resnets;
  Conv resample;
};

struct CoderWeights {
  Conv in;
  std::vector<ResolutionWeights> blocks;
  MidBlockWeights mid;  // after the blocks in the encoder, before them in the decoder
  Norm norm_out;
  Conv out;
};

struct AutoencoderWeights {
  CoderWeights encoder, decoder;
  Conv quant, post_quant;  // 1 × 1, or undefined
};

// Incomplete where reader->status() is not OK afterwards.
AutoencoderWeights ReadAutoencoderWeights(const AutoencoderConfig& config, WeightReader* reader);

}  // namespace fresco
