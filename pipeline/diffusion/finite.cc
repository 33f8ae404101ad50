#include "pipeline/diffusion/finite.h"

#include <ATen/ops/mul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/sum.h>

namespace fresco {

// 0 * x is 0 for a finite x and NaN for any other: one pass over each, and one transfer.
std::vector<bool> FiniteFlags(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> sums;
  for (const at::Tensor& tensor : tensors) sums.push_back(at::mul(tensor, 0).sum(at::kFloat));
  const at::Tensor all = at::stack(sums).to(at::kCPU);
  const float* const values = all.const_data_ptr<float>();
  std::vector<bool> finite;
  for (size_t i = 0; i < sums.size(); ++i) finite.push_back(values[i] == 0);
  return finite;
}

void MarkNonfinite(const at::Tensor& values, const at::Tensor& flag) {
  flag.add_(at::mul(values, 0).sum(at::kFloat));
}

bool AllFinite(const at::Tensor& values) {
  return FiniteFlags({values}).front();
}

}  // namespace fresco
