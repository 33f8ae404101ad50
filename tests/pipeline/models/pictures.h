// Pictures that an autoencoder is given in tests, and how they are compared. Values in -1..1.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace fresco {

// [1, 3, height, width]: a cloudless sky, from deep blue above to pale below, a little brighter on the right.
inline at::Tensor Sky(int64_t height, int64_t width) {
  const at::Tensor down = at::linspace(0, 1, height).unsqueeze(1), right = at::linspace(0, 0.2, width).unsqueeze(0);
  const at::Tensor light = down * 0.8 + right;  // 0..1
  return at::stack({light * 1.2 - 0.7, light * 0.9 - 0.2, light * 0.4 + 0.5}).unsqueeze(0);
}

// In dB, of pictures whose values span 2.
inline double PicturePsnr(const at::Tensor& actual, const at::Tensor& expected) {
  const double error = (actual.to(at::kDouble) - expected.to(at::kDouble)).square().mean().item<double>();
  return 10 * std::log10(4 / error);
}

// The largest difference of two pixels side by side.
inline double LargestStep(const at::Tensor& picture) {
  const auto along = [&](int64_t dim) {
    const int64_t n = picture.size(dim) - 1;
    return (picture.narrow(dim, 1, n) - picture.narrow(dim, 0, n)).abs().max().item<double>();
  };
  return std::max(along(2), along(3));
}

}  // namespace fresco
