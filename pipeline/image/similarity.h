// How alike two pictures are. Thread-safe.
#pragma once

#include "absl/status/statusor.h"
#include "pipeline/image/image.h"

namespace fresco {

// Peak signal-to-noise ratio in dB, over all pixels and channels, the peak being 255; infinite for equal pictures.
// INVALID_ARGUMENT for pictures of different sizes.
absl::StatusOr<double> Psnr(const Image& a, const Image& b);

// Structural similarity after Wang et al. 2004, 1 for equal pictures: a Gaussian window of 11×11 pixels with sigma 1.5,
// K1 = 0.01, K2 = 0.03, covariances of the population; the mean over all windows that lie within the picture, then over
// the channels. INVALID_ARGUMENT for pictures of different sizes or below 11 pixels a side.
absl::StatusOr<double> Ssim(const Image& a, const Image& b);

// Grey where they are equal (128), the difference a - b times `gain` elsewhere, cut off at the ends. The sizes must be
// equal.
Image DifferencePicture(const Image& a, const Image& b, int gain);

}  // namespace fresco
