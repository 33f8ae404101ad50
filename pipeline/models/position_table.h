// The transformer's stored position embeddings, cropped to an image's size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <list>

#include "pipeline/base/mutex.h"
#include "pipeline/models/placement.h"

namespace fresco {

// Thread-safe. The table stays where it is (in its file: 226 M entries for Medium); the crops of the sizes last used
// are kept on the device.
class PositionTable {
 public:
  // stored: [1, max_size², D] on the host, any floating type.
  PositionTable(const at::Tensor& stored, int64_t max_size, const Placement& placement);

  // [1, height * width, D]: the middle height x width patches of the table (top = (max - height) / 2, left likewise).
  // Throws c10::Error where a side is over max_size.
  at::Tensor Crop(int64_t height, int64_t width);

 private:
  struct Entry {
    int64_t height = 0;
    int64_t width = 0;
    at::Tensor crop;
  };
  static constexpr size_t kKept = 16;  // twice as many as the images of a step, where nobody has said otherwise

  const at::Tensor table_;  // [max_size, max_size, D]
  const Placement placement_;
  Mutex mutex_;
  std::list<Entry> recent_ FRESCO_GUARDED_BY(mutex_);  // most recently used first
};

}  // namespace fresco
