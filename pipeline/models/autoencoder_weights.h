// The autoencoder's weights under the names that diffusers gives them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "pipeline/models/autoencoder.h"
#include "pipeline/models/layers.h"
#include "pipeline/models/weight_reader.h"
#include "pipeline/precision/fp8_conv.h"
#include "pipeline/precision/saturation.h"

namespace fresco {

// A convolution in the model's own type or in FP8.
struct BlockConv {
  Conv high;
  std::shared_ptr<const Fp8Conv> fp8;  // null: high

  bool defined() const { return fp8 != nullptr || high.weight.defined(); }
};

struct ResnetWeights {
  Norm norm1, norm2;
  BlockConv conv1, conv2;
  BlockConv shortcut;  // 1 × 1; undefined where the channels stay as many
};

// A linear over the pixels, in the model's own type or as a 1 × 1 convolution in FP8.
struct PixelLinear {
  Linear high;
  std::shared_ptr<const Fp8Conv> fp8;  // null: high
};

// One head over the pixels.
struct PixelAttentionWeights {
  Norm norm;
  PixelLinear qkv;  // C → 3 C
  PixelLinear out;  // C → C
};

struct MidBlockWeights {
  ResnetWeights first, second;
  std::optional<PixelAttentionWeights> attention;
};

// A block of one resolution, and the convolution that leads to the next (undefined in the last block).
struct ResolutionWeights {
  std::vector<ResnetWeights> resnets;
  BlockConv resample;
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
  int64_t fp8_bytes = 0;   // of the layers in FP8, on the device; all others are in reader->bytes()
};

// `saturation`: told of the layers in FP8, which it knows as "vae." and their name ("vae.decoder.mid_block.…").
// Incomplete where reader->status() is not OK afterwards.
AutoencoderWeights ReadAutoencoderWeights(const AutoencoderConfig& config, const VaeOptions& options,
                                          std::shared_ptr<SaturationCount> saturation, WeightReader* reader);

}  // namespace fresco
