// Parses JSON that nobody vouches for. Only for .cc files: nlohmann's header is large.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/status/statusor.h"

namespace fresco {

// INVALID_ARGUMENT, with the byte where it is known, for text that is not JSON, is nested deeper than max_depth, or has
// an object with two equal keys (of which libraries take one or the other, so that a file could mean two things).
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, int max_depth);

}  // namespace fresco
