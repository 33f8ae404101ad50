// Parses JSON that nobody vouches for. Only for .cc files: nlohmann's header is large.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"

namespace fresco {

// INVALID_ARGUMENT, with the byte where it is known, for text that is not JSON, is nested deeper than max_depth, or has
// an object with two equal keys (of which libraries take one or the other, so that a file could mean two things).
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, int max_depth);

// A whole number in [min, max]; nothing for anything else.
std::optional<int64_t> WholeNumber(const nlohmann::json& json, int64_t min, int64_t max);

}  // namespace fresco
