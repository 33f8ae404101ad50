#include "pipeline/precision/device_counters.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace fresco {

at::Tensor DeviceCounters::Of(std::string_view layer, const at::Device& device) {
  const MutexLock lock(&mutex_);
  for (const Counter& counter : counters_) {
    if (counter.layer == layer && counter.value.device() == device) return counter.value;
  }
  const at::Tensor value = at::zeros({1}, at::TensorOptions(device).dtype(at::kLong));
  counters_.push_back({std::string(layer), value});
  return value;
}

at::Tensor DeviceCounters::Read() const {
  std::vector<at::Tensor> values;
  {
    const MutexLock lock(&mutex_);
    for (const Counter& counter : counters_) values.push_back(counter.value);
  }
  return values.empty() ? at::Tensor() : at::cat(values);
}

void DeviceCounters::Settle(const at::Tensor& values, SaturationCount* count) {
  const auto* const now = values.const_data_ptr<int64_t>();
  const MutexLock lock(&mutex_);
  const size_t known = std::min(counters_.size(), static_cast<size_t>(values.numel()));
  for (size_t i = 0; i < known; ++i) {
    Counter& counter = counters_[i];
    if (now[i] <= counter.told) continue;
    count->Add(counter.layer, {.saturated = now[i] - counter.told});
    counter.told = now[i];
  }
}

}  // namespace fresco
