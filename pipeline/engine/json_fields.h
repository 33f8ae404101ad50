// Reads JSON that nobody vouches for into values, field by field. Only for .cc files: nlohmann's header is large.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fresco {

// One object of a file. The first error of the whole file is kept in its FieldErrors and makes every later read return
// an empty value, so that a format reads as a list of its fields: ask for the error at the end, before using anything.
// An error names the file and the field's path ("a.json: layers[3].ranges[0].min: must be a number").
class FieldErrors {
 public:
  explicit FieldErrors(std::string file) : file_(std::move(file)) {}
  void Add(std::string_view path, std::string_view what);
  const absl::Status& status() const { return status_; }

 private:
  const std::string file_;
  absl::Status status_;
};

class JsonFields {
 public:
  using Json = nlohmann::json;

  // `json` and `errors` outlive it; `path` is the object's within the file, empty for the whole.
  JsonFields(const Json& json, std::string path, FieldErrors* errors);

  int64_t Int(std::string_view key, int64_t min, int64_t max);
  uint64_t Unsigned(std::string_view key);
  double Double(std::string_view key);  // finite, as JSON has no others
  float Float(std::string_view key);    // within float's range
  std::string String(std::string_view key);
  std::vector<float> Floats(std::string_view key);
  std::vector<double> Doubles(std::string_view key);
  std::vector<int64_t> Ints(std::string_view key, int64_t min, int64_t max);
  std::vector<std::string> Strings(std::string_view key);
  std::map<std::string, float> FloatMap(std::string_view key);
  std::map<std::string, std::string> StringMap(std::string_view key);

  // Calls `read` with each element of a list of objects, and refuses fields of it that `read` does not take.
  void Objects(std::string_view key, const std::function<void(JsonFields& element)>& read);
  // The same of an object's own objects, with their keys.
  void ObjectMap(std::string_view key, const std::function<void(const std::string& name, JsonFields& value)>& read);
  // A list of lists of objects.
  void ObjectLists(std::string_view key, const std::function<void(size_t list, JsonFields& element)>& read);

  bool Has(std::string_view key) const;
  void Error(std::string_view key, std::string_view what) { errors_->Add(Path(key), what); }
  // Refuses what was not asked for.
  void Finish();

 private:
  const Json* Take(std::string_view key, bool (Json::*is)() const noexcept, std::string_view expected);
  template <typename T, typename Convert>
  std::vector<T> List(std::string_view key, std::string_view expected, const Convert& convert);
  void ReadObjects(const Json& list, const std::string& path, const std::function<void(JsonFields& element)>& read);
  std::string Path(std::string_view key) const;

  const Json* object_;  // null where the value is no object
  const std::string path_;
  FieldErrors* const errors_;
  std::set<std::string, std::less<>> taken_;
};

// A float as the shortest decimal number that is read back as the same float.
nlohmann::json ShortFloat(float value);
nlohmann::json ShortFloats(const std::vector<float>& values);

}  // namespace fresco
