#include "pipeline/engine/image_conversion.h"

#include <ATen/ops/clamp.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/round.h>

#include <cstring>

namespace fresco {

Image ToImage(const at::Tensor& pixels) {
  const at::Tensor levels = pixels.to(at::kFloat).mul(0.5).add_(0.5).clamp_(0, 1).mul_(255).round_().to(at::kByte);
  const at::Tensor rows = levels.permute({0, 2, 3, 1}).to(at::kCPU).contiguous();  // [1, H, W, 3]
  Image image;
  image.width = static_cast<int>(rows.size(2));
  image.height = static_cast<int>(rows.size(1));
  image.rgb.resize(rows.nbytes());
  std::memcpy(image.rgb.data(), rows.const_data_ptr(), rows.nbytes());
  return image;
}

}  // namespace fresco
