#include "pipeline/checkpoint/json_parse.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using Json = nlohmann::json;

// Builds the tree, refusing depth and duplicates as they come; returning false stops the parser.
class TreeBuilder final : public nlohmann::json_sax<Json> {
 public:
  explicit TreeBuilder(int max_depth) : max_depth_(max_depth) {}

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Fail("binary data"); }
  bool start_object(size_t) override { return Open(Json::object()); }
  bool start_array(size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    if (open_.back()->contains(name)) return Fail(StrCat("the key \"", PrintableName(name), "\" occurs twice"));
    key_ = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(StrCat("not JSON at byte ", position));
  }

  absl::StatusOr<Json> Take() && {
    if (!error_.empty()) return absl::InvalidArgumentError(error_);
    return std::move(root_);
  }

 private:
  bool Fail(std::string message) {
    error_ = std::move(message);
    return false;
  }

  Json* Place(Json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    if (open_.back()->is_object()) return &((*open_.back())[key_] = std::move(value));
    open_.back()->push_back(std::move(value));
    return &open_.back()->back();
  }

  template <typename T>
  bool Add(T&& value) {
    Place(Json(std::forward<T>(value)));
    return true;
  }

  bool Open(Json container) {
    if (static_cast<int>(open_.size()) == max_depth_) return Fail(StrCat("nested over ", max_depth_, " deep"));
    open_.push_back(Place(std::move(container)));
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  const int max_depth_;
  Json root_;
  std::vector<Json*> open_;  // stays valid: a container does not grow while one inside it is open
  std::string key_;
  std::string error_;
};

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view text, int max_depth) {
  TreeBuilder builder(max_depth);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder).Take();
}

std::optional<int64_t> WholeNumber(const Json& json, int64_t min, int64_t max) {
  if (!json.is_number_integer()) return std::nullopt;
  if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  const auto value = json.get<int64_t>();
  return value < min || value > max ? std::nullopt : std::optional(value);
}

}  // namespace fresco
