// Smaller copies of pictures.
#pragma once

#include "pipeline/image/image.h"

namespace fresco {

// `image` at width x height pixels (at least 1): each pixel is the mean of the area of `image` that it covers, computed
// in integers and so the same everywhere. Also enlarges, in blocks. `image` must not be empty.
Image ResizeArea(const Image& image, int width, int height);

// `image` itself if neither side is longer than max_side pixels, else scaled down to that, its proportions kept.
Image FitInside(const Image& image, int max_side);

}  // namespace fresco
