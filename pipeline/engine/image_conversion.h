// Between tensors and pictures.
#pragma once

#include <ATen/core/Tensor.h>

#include "pipeline/image/image.h"

namespace fresco {

// pixels [1, 3, H, W] on any device, -1..1: clamped, in fp32, to round(255 * (x / 2 + 0.5)), halves to even as numpy
// does.
Image ToImage(const at::Tensor& pixels);

}  // namespace fresco
