#include "pipeline/tokenizer/json_file.h"

#include <fstream>
#include <system_error>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/tokenizer/unicode_text.h"

namespace fresco {
namespace {

using nlohmann::json;

absl::StatusOr<json> ParseJson(const std::string& text) {
  constexpr int kMaxDepth = 100;
  bool too_deep = false;
  const auto check_depth = [&](int depth, json::parse_event_t, json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  try {
    json value = json::parse(text, check_depth);
    if (too_deep) return absl::InvalidArgumentError(StrCat("nested over ", kMaxDepth, " levels deep"));
    return value;
  } catch (const json::exception& e) {
    return absl::InvalidArgumentError(StrCat("not JSON: ", PrintableName(ReplaceMalformedUtf8(e.what()))));
  }
}

}  // namespace

absl::StatusOr<std::string> ReadTokenizerFile(const std::filesystem::path& file) {
  constexpr uintmax_t kMaxBytes = 64 << 20;  // the real ones have at most 3 MB
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (!std::filesystem::exists(status)) return absl::NotFoundError(StrCat(file.string(), ": there is no such file"));
  if (!std::filesystem::is_regular_file(status)) {
    return absl::InvalidArgumentError(StrCat(file.string(), ": not a regular file"));
  }
  const uintmax_t size = std::filesystem::file_size(file, error);
  if (error || size > kMaxBytes) {
    return absl::InvalidArgumentError(StrCat(file.string(), ": larger than ", kMaxBytes >> 20, " MiB"));
  }
  std::string bytes(size, '\0');
  std::ifstream in(file, std::ios::binary);
  if (!in.read(bytes.data(), static_cast<std::streamsize>(size))) {
    return absl::InvalidArgumentError(StrCat(file.string(), ": cannot be read"));
  }
  return bytes;
}

absl::StatusOr<json> ReadJsonObject(const std::filesystem::path& file) {
  FRESCO_ASSIGN_OR_RETURN(const std::string text, ReadTokenizerFile(file));
  absl::StatusOr<json> value = ParseJson(text);
  if (!value.ok()) return Annotate(value.status(), file.string());
  if (!value->is_object()) return Annotate(WrongType(*value, "an object", "the file"), file.string());
  return value;
}

const json& Member(const json& object, std::string_view key) {
  static const json* const null = new json;
  if (!object.is_object()) return *null;
  const auto found = object.find(std::string(key));
  return found == object.end() ? *null : *found;
}

std::string Shown(const json& value) {
  if (!value.is_string()) return value.type_name();
  return StrCat("\"", PrintableName(value.get_ref<const std::string&>()), "\"");
}

absl::Status WrongType(const json& value, std::string_view expected, std::string_view what) {
  return absl::InvalidArgumentError(StrCat(what, " is ", value.type_name(), ", not ", expected));
}

absl::StatusOr<std::string> AsString(const json& value, std::string_view what) {
  if (!value.is_string()) return WrongType(value, "a string", what);
  return value.get<std::string>();
}

absl::StatusOr<bool> AsBool(const json& value, bool otherwise, std::string_view what) {
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) return WrongType(value, "true or false", what);
  return value.get<bool>();
}

absl::StatusOr<int32_t> AsId(const json& value, int32_t limit, std::string_view what) {
  if (!value.is_number_integer()) return WrongType(value, "an integer", what);
  const bool fits = value.is_number_unsigned() && value.get<uint64_t>() < static_cast<uint64_t>(limit);
  if (!fits) return absl::InvalidArgumentError(StrCat(what, " is ", value.dump(), ", not in 0..", limit - 1));
  return value.get<int32_t>();
}

}  // namespace fresco
