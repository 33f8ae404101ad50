// Computes an image in overlapping tiles whose seams are blended, as AutoencoderKL.tiled_decode and _tiled_encode of
// diffusers do.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace fresco {

// A tile is `input` × `input` and its result `output` × `output`, both multiples of 4; those on the right and below are
// what is left. Each begins three quarters of a tile after the one before it, and its first quarter fades from the
// result of that one to its own, linearly.
struct TileSizes {
  int64_t input = 0;
  int64_t output = 0;
};

// x [1, C, H, W], its sides multiples of input / output (where that is more than 1). `run` is given tiles
// [1, C, h, w], channels-last, row by row, and returns memory of its own: [1, D, h * output / input,
// w * output / input]. Returns that of the whole x, channels-last. In memory there are besides it one tile and the
// seams of one row of tiles. Throws libtorch's exceptions.
at::Tensor RunTiled(const at::Tensor& x, const TileSizes& sizes,
                    const std::function<at::Tensor(const at::Tensor&)>& run);

}  // namespace fresco
