// Copies between host and device that nobody waits for: by memory that a GPU reads and writes by itself (pinned), in
// the order of the current stream. On a CPU each gives back what it is given.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <vector>

namespace fresco {

// `values`, which are on the host, on `device`. They may be changed or freed as soon as it returns.
at::Tensor Upload(const at::Tensor& values, const at::Device& device);
at::Tensor Upload(const std::vector<float>& values, const at::Device& device);  // kFloat, of one dimension

// `values`, which the current stream makes, on the host: there when that stream has come so far. Undefined stays so.
at::Tensor Download(const at::Tensor& values);

}  // namespace fresco
