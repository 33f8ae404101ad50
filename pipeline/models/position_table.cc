#include "pipeline/models/position_table.h"

#include <c10/util/Exception.h>

#include <algorithm>

#include "pipeline/models/transfer.h"

namespace fresco {

PositionTable::PositionTable(const at::Tensor& stored, int64_t max_size, const Placement& placement)
    : table_(stored.view({max_size, max_size, -1})), placement_(placement) {}

at::Tensor PositionTable::Crop(int64_t height, int64_t width) {
  const int64_t max_size = table_.size(0);
  TORCH_CHECK(height <= max_size && width <= max_size, "an image of ", width, "x", height, " patches, where the ",
              "position table has ", max_size, " a side");
  MutexLock lock(&mutex_);
  auto found = std::find_if(recent_.begin(), recent_.end(),
                            [&](const Entry& entry) { return entry.height == height && entry.width == width; });
  if (found != recent_.end()) {
    recent_.splice(recent_.begin(), recent_, found);
    return recent_.front().crop;
  }
  const at::Tensor stored = table_.narrow(0, (max_size - height) / 2, height).narrow(1, (max_size - width) / 2, width);
  const at::Tensor crop = Upload(stored.to(placement_.dtype).reshape({1, height * width, -1}), placement_.device);
  recent_.push_front({height, width, crop});
  if (recent_.size() > kKept) recent_.pop_back();
  return crop;
}

}  // namespace fresco
