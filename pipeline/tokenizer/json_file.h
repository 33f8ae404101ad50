// Files of a tokenizer, read with care: they are untrusted. Private to fresco_tokenizer.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace fresco {

// The bytes of a regular file of at most 64 MiB. NOT_FOUND and INVALID_ARGUMENT name it.
absl::StatusOr<std::string> ReadTokenizerFile(const std::filesystem::path& file);

// A JSON object. INVALID_ARGUMENT names the file and the place: not JSON, not an object, over 100 levels deep.
absl::StatusOr<nlohmann::json> ReadJsonObject(const std::filesystem::path& file);

// `object[key]`, or null where it has none.
const nlohmann::json& Member(const nlohmann::json& object, std::string_view key);

absl::StatusOr<std::string> AsString(const nlohmann::json& value, std::string_view what);
// A missing (null) value is `otherwise`.
absl::StatusOr<bool> AsBool(const nlohmann::json& value, bool otherwise, std::string_view what);
// An integer in [0, limit).
absl::StatusOr<int32_t> AsId(const nlohmann::json& value, int32_t limit, std::string_view what);
// A value in a message: a string quoted and printable, of anything else its kind.
std::string Shown(const nlohmann::json& value);
absl::Status WrongType(const nlohmann::json& value, std::string_view expected, std::string_view what);

}  // namespace fresco
