// Pictures on disk, and what is told of them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/drawing.h"

namespace fresco {

struct SavedImage {
  std::string file;
  size_t bytes = 0;
  DrawnImage image;  // its bytes are on disk and no longer here
};

// Writes one picture of `request` to where `pattern` (naming.h) says.
absl::StatusOr<SavedImage> SaveImage(const std::string& pattern, const DrawRequest& request, DrawnImage image);

// Scales the pictures in `files` down onto one sheet at `path`, whose extension decides its format.
absl::Status WriteContactSheet(const std::vector<std::string>& files, const std::string& path);

}  // namespace fresco
