// Puts the chunks of pictures together again.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fresco {

// Not thread-safe.
class ImageAssembler {
 public:
  // Takes the next chunk of an image; its whole bytes once they are all there. DATA_LOSS when it does not follow the
  // one before, or what it says of the file is impossible.
  absl::StatusOr<std::optional<std::string>> Add(int image_index, std::string_view data, int64_t offset,
                                                 int64_t total_bytes);

  // DATA_LOSS unless images 0 to count - 1 have been completed.
  absl::Status CheckComplete(int count) const;

 private:
  struct Part {
    std::string bytes;
    int64_t total_bytes = 0;
    bool complete = false;
  };
  std::map<int, Part> parts_;
};

}  // namespace fresco
