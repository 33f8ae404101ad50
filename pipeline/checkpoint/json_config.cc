#include "pipeline/checkpoint/json_config.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_parse.h"
#include "pipeline/checkpoint/text_file.h"

namespace fresco {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxBytes = 16 << 20;
constexpr int kMaxDepth = 32;

}  // namespace

struct JsonConfig::Impl {
  Json object;

  // Null where it is absent or null.
  const Json* Find(std::string_view key) const {
    const auto found = object.find(std::string(key));
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }
};

JsonConfig::JsonConfig(std::string path, std::shared_ptr<const Impl> impl)
    : path_(std::move(path)), impl_(std::move(impl)) {}

absl::StatusOr<JsonConfig> JsonConfig::Open(const std::string& path) {
  FRESCO_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxBytes));
  absl::StatusOr<Json> json = ParseJson(text, kMaxDepth);
  if (!json.ok()) return Annotate(json.status(), path);
  if (!json->is_object()) return absl::InvalidArgumentError(StrCat(path, ": not an object"));
  auto impl = std::make_shared<Impl>();
  impl->object = *std::move(json);
  return JsonConfig(path, std::move(impl));
}

absl::Status JsonConfig::Error(std::string_view key, std::string_view message) const {
  return absl::InvalidArgumentError(StrCat(path_, ": ", PrintableName(key), ": ", message));
}

namespace {

std::string Range(int64_t min, int64_t max) {
  return StrCat(min, " to ", max);
}

}  // namespace

absl::StatusOr<int64_t> JsonConfig::Int(std::string_view key, std::optional<int64_t> fallback, int64_t min,
                                        int64_t max) const {
  const Json* json = impl_->Find(key);
  if (json == nullptr && fallback) return *fallback;
  if (json == nullptr) return Error(key, "missing");
  const std::optional<int64_t> value = WholeNumber(*json, min, max);
  return value ? absl::StatusOr<int64_t>(*value) : Error(key, StrCat("must be a whole number from ", Range(min, max)));
}

absl::StatusOr<double> JsonConfig::Double(std::string_view key, std::optional<double> fallback) const {
  const Json* json = impl_->Find(key);
  if (json == nullptr && fallback) return *fallback;
  if (json == nullptr) return Error(key, "missing");
  return json->is_number() ? absl::StatusOr<double>(json->get<double>()) : Error(key, "must be a number");
}

absl::StatusOr<bool> JsonConfig::Bool(std::string_view key, std::optional<bool> fallback) const {
  const Json* json = impl_->Find(key);
  if (json == nullptr && fallback) return *fallback;
  if (json == nullptr) return Error(key, "missing");
  return json->is_boolean() ? absl::StatusOr<bool>(json->get<bool>()) : Error(key, "must be true or false");
}

absl::StatusOr<std::string> JsonConfig::String(std::string_view key, std::optional<std::string> fallback) const {
  const Json* json = impl_->Find(key);
  if (json == nullptr && fallback) return *std::move(fallback);
  if (json == nullptr) return Error(key, "missing");
  return json->is_string() ? absl::StatusOr<std::string>(json->get<std::string>()) : Error(key, "must be a string");
}

absl::StatusOr<std::vector<int64_t>> JsonConfig::Ints(std::string_view key,
                                                      std::optional<std::vector<int64_t>> fallback, int64_t min,
                                                      int64_t max) const {
  const Json* json = impl_->Find(key);
  if (json == nullptr && fallback) return *std::move(fallback);
  if (json == nullptr) return Error(key, "missing");
  if (!json->is_array()) return Error(key, "must be a list");
  std::vector<int64_t> values;
  for (const Json& element : *json) {
    const std::optional<int64_t> value = WholeNumber(element, min, max);
    if (!value) return Error(key, StrCat("must be a list of whole numbers from ", Range(min, max)));
    values.push_back(*value);
  }
  return values;
}

absl::StatusOr<std::vector<std::string>> JsonConfig::Strings(std::string_view key,
                                                             std::optional<std::vector<std::string>> fallback) const {
  const Json* json = impl_->Find(key);
  if (json == nullptr && fallback) return *std::move(fallback);
  if (json == nullptr) return Error(key, "missing");
  if (!json->is_array()) return Error(key, "must be a list");
  std::vector<std::string> values;
  for (const Json& element : *json) {
    if (!element.is_string()) return Error(key, "must be a list of strings");
    values.push_back(element.get<std::string>());
  }
  return values;
}

bool JsonConfig::Has(std::string_view key) const {
  return impl_->Find(key) != nullptr;
}

std::vector<std::string> JsonConfig::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : impl_->object.items()) keys.push_back(key);
  return keys;
}

}  // namespace fresco
