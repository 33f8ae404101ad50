#include "pipeline/models/transfer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

namespace fresco {
namespace {

at::Tensor Pinned(const at::Tensor& like) {
  return at::empty(like.sizes(), at::TensorOptions(like.scalar_type()).pinned_memory(true));
}

}  // namespace

at::Tensor Upload(const at::Tensor& values, const at::Device& device) {
  if (device.is_cpu()) return values;
  return Pinned(values).copy_(values).to(device, /*non_blocking=*/true);  // its allocator waits for the copy, not we
}

at::Tensor Upload(const std::vector<float>& values, const at::Device& device) {
  return Upload(at::tensor(values, at::kFloat), device);
}

at::Tensor Download(const at::Tensor& values) {
  if (!values.defined() || values.is_cpu()) return values;
  return Pinned(values).copy_(values, /*non_blocking=*/true);
}

}  // namespace fresco
