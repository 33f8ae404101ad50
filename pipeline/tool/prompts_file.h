// A file of prompts, one to a line.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fresco {

// Its lines without surrounding blanks, the empty ones left out. NOT_FOUND for a file that is not there,
// INVALID_ARGUMENT for one over 16 MiB or without any prompt.
absl::StatusOr<std::vector<std::string>> ReadPrompts(const std::string& path);

}  // namespace fresco
