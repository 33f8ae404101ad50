// Reads a small file whole.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace fresco {

// NOT_FOUND or what the system says for a file that cannot be read, INVALID_ARGUMENT for one of over max_bytes or that
// is not a regular file. Errors name the file.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

}  // namespace fresco
