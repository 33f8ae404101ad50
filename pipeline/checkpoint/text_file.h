// Reads or writes a small file whole.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fresco {

// NOT_FOUND or what the system says for a file that cannot be read, INVALID_ARGUMENT for one of over max_bytes or that
// is not a regular file. Errors name the file.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

// Whole or not at all: beside it first, then in its place. Errors name the file.
absl::Status WriteFileWhole(const std::string& path, std::string_view bytes);

}  // namespace fresco
