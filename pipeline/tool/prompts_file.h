// A file of prompts, one to a line.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fresco {

// Its lines without surrounding blanks, the empty ones left out. NOT_FOUND for a file that is not there,
// INVALID_ARGUMENT for one of over max_bytes, without any prompt, or, naming the line, that is not UTF-8.
absl::StatusOr<std::vector<std::string>> ReadPrompts(const std::string& path, size_t max_bytes = size_t{16} << 20);

}  // namespace fresco
