#include "pipeline/engine/json_fields.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <system_error>
#include <utility>

#include "pipeline/base/printable.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_parse.h"

namespace fresco {
namespace {

using Json = nlohmann::json;

std::optional<double> AsDouble(const Json& json) {
  if (!json.is_number()) return std::nullopt;
  const auto value = json.get<double>();
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::optional<float> AsFloat(const Json& json) {
  const std::optional<double> value = AsDouble(json);
  if (!value || std::abs(*value) > std::numeric_limits<float>::max()) return std::nullopt;
  return static_cast<float>(*value);
}

std::optional<std::string> AsString(const Json& json) {
  return json.is_string() ? std::optional(json.get<std::string>()) : std::nullopt;
}

constexpr std::string_view kNumber = "a number within float's range";

std::string WholeNumberText(int64_t min, int64_t max) {
  return StrCat("a whole number from ", min, " to ", max);
}

}  // namespace

void FieldErrors::Add(std::string_view path, std::string_view what) {
  if (status_.ok()) {
    status_ = absl::InvalidArgumentError(StrCat(file_, ": ", path, path.empty() ? "" : ": ", what));
  }
}

JsonFields::JsonFields(const Json& json, std::string path, FieldErrors* errors)
    : object_(json.is_object() ? &json : nullptr), path_(std::move(path)), errors_(errors) {
  if (object_ == nullptr) errors_->Add(path_, "must be an object");
}

std::string JsonFields::Path(std::string_view key) const {
  return path_.empty() ? PrintableName(key) : StrCat(path_, ".", PrintableName(key));
}

bool JsonFields::Has(std::string_view key) const {
  return object_ != nullptr && object_->contains(std::string(key));
}

const Json* JsonFields::Take(std::string_view key, bool (Json::*is)() const noexcept, std::string_view expected) {
  if (object_ == nullptr || !errors_->status().ok()) return nullptr;
  taken_.emplace(key);
  const auto found = object_->find(std::string(key));
  if (found == object_->end()) {
    Error(key, "missing");
  } else if (!((*found).*is)()) {
    Error(key, StrCat("must be ", expected));
  } else {
    return &*found;
  }
  return nullptr;
}

int64_t JsonFields::Int(std::string_view key, int64_t min, int64_t max) {
  const Json* const json = Take(key, &Json::is_number, WholeNumberText(min, max));
  if (json == nullptr) return min;
  const std::optional<int64_t> value = WholeNumber(*json, min, max);
  if (!value) Error(key, StrCat("must be ", WholeNumberText(min, max)));
  return value.value_or(min);
}

uint64_t JsonFields::Unsigned(std::string_view key) {
  const Json* const json = Take(key, &Json::is_number_unsigned, "a whole number of at least 0");
  return json == nullptr ? 0 : json->get<uint64_t>();
}

double JsonFields::Double(std::string_view key) {
  const Json* const json = Take(key, &Json::is_number, "a number");
  if (json == nullptr) return 0;
  const std::optional<double> value = AsDouble(*json);
  if (!value) Error(key, "must be a finite number");
  return value.value_or(0);
}

float JsonFields::Float(std::string_view key) {
  const Json* const json = Take(key, &Json::is_number, kNumber);
  if (json == nullptr) return 0;
  const std::optional<float> value = AsFloat(*json);
  if (!value) Error(key, StrCat("must be ", kNumber));
  return value.value_or(0);
}

std::string JsonFields::String(std::string_view key) {
  const Json* const json = Take(key, &Json::is_string, "a string");
  return json == nullptr ? "" : json->get<std::string>();
}

template <typename T, typename Convert>
std::vector<T> JsonFields::List(std::string_view key, std::string_view expected, const Convert& convert) {
  const Json* const json = Take(key, &Json::is_array, "a list");
  if (json == nullptr) return {};
  std::vector<T> values;
  values.reserve(json->size());
  for (const Json& element : *json) {
    std::optional<T> value = convert(element);
    if (!value) {
      Error(StrCat(key, "[", values.size(), "]"), StrCat("must be ", expected));
      return {};
    }
    values.push_back(*std::move(value));
  }
  return values;
}

std::vector<float> JsonFields::Floats(std::string_view key) {
  return List<float>(key, kNumber, AsFloat);
}

std::vector<double> JsonFields::Doubles(std::string_view key) {
  return List<double>(key, "a finite number", AsDouble);
}

std::vector<int64_t> JsonFields::Ints(std::string_view key, int64_t min, int64_t max) {
  return List<int64_t>(key, WholeNumberText(min, max), [&](const Json& json) { return WholeNumber(json, min, max); });
}

std::vector<std::string> JsonFields::Strings(std::string_view key) {
  return List<std::string>(key, "a string", AsString);
}

std::map<std::string, float> JsonFields::FloatMap(std::string_view key) {
  std::map<std::string, float> values;
  const Json* const json = Take(key, &Json::is_object, "an object");
  if (json == nullptr) return values;
  JsonFields fields(*json, Path(key), errors_);
  for (const auto& [name, value] : json->items()) values[name] = fields.Float(name);
  return values;
}

std::map<std::string, std::string> JsonFields::StringMap(std::string_view key) {
  std::map<std::string, std::string> values;
  const Json* const json = Take(key, &Json::is_object, "an object");
  if (json == nullptr) return values;
  JsonFields fields(*json, Path(key), errors_);
  for (const auto& [name, value] : json->items()) values[name] = fields.String(name);
  return values;
}

void JsonFields::ReadObjects(const Json& list, const std::string& path,
                             const std::function<void(JsonFields& element)>& read) {
  for (size_t i = 0; i < list.size() && errors_->status().ok(); ++i) {
    JsonFields element(list[i], StrCat(path, "[", i, "]"), errors_);
    read(element);
    element.Finish();
  }
}

void JsonFields::Objects(std::string_view key, const std::function<void(JsonFields& element)>& read) {
  const Json* const json = Take(key, &Json::is_array, "a list");
  if (json != nullptr) ReadObjects(*json, Path(key), read);
}

void JsonFields::ObjectMap(std::string_view key,
                           const std::function<void(const std::string& name, JsonFields& value)>& read) {
  const Json* const json = Take(key, &Json::is_object, "an object");
  if (json == nullptr) return;
  for (const auto& [name, value] : json->items()) {
    JsonFields fields(value, StrCat(Path(key), ".", PrintableName(name)), errors_);
    read(name, fields);
    fields.Finish();
  }
}

void JsonFields::ObjectLists(std::string_view key, const std::function<void(size_t list, JsonFields& element)>& read) {
  const Json* const json = Take(key, &Json::is_array, "a list");
  if (json == nullptr) return;
  for (size_t i = 0; i < json->size(); ++i) {
    const std::string path = StrCat(Path(key), "[", i, "]");
    if (!(*json)[i].is_array()) return errors_->Add(path, "must be a list");
    ReadObjects((*json)[i], path, [&](JsonFields& element) { read(i, element); });
  }
}

void JsonFields::Finish() {
  if (object_ == nullptr) return;
  for (const auto& [key, value] : object_->items()) {
    if (!taken_.contains(key)) Error(key, "unknown key");
  }
}

Json ShortFloat(float value) {
  char text[32] = {};
  std::to_chars(text, text + sizeof(text) - 1, value);
  const double shortest = std::strtod(text, nullptr);
  // Rounding to double first and then to float could, at worst, give a neighbour.
  return static_cast<float>(shortest) == value ? Json(shortest) : Json(static_cast<double>(value));
}

Json ShortFloats(const std::vector<float>& values) {
  Json list = Json::array();
  for (const float value : values) list.push_back(ShortFloat(value));
  return list;
}

}  // namespace fresco
