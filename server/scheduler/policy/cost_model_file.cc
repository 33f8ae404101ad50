#include "server/scheduler/policy/cost_model_file.h"

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <system_error>
#include <utility>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kFormat = "fresco-cost-model";
constexpr int kVersion = 1;

// `optional`: may be left out.
absl::Status CheckKeys(const Json& object, const std::set<std::string>& known, std::string_view optional = "") {
  if (!object.is_object()) return absl::InvalidArgumentError("must be an object");
  for (const auto& [key, value] : object.items()) {
    if (!known.contains(key) && key != optional)
      return absl::InvalidArgumentError(StrCat("unknown key '", PrintableName(key), "'"));
  }
  for (const std::string& key : known) {
    if (!object.contains(key)) return absl::InvalidArgumentError(StrCat("'", key, "' is missing"));
  }
  return absl::OkStatus();
}

template <typename Integer>
absl::Status ReadInteger(const Json& object, const char* key, Integer* value) {
  const Json& entry = object.at(key);
  if (!entry.is_number_integer()) return absl::InvalidArgumentError(StrCat(key, ": must be an integer"));
  // An unsigned one beyond int64's range would come out negative.
  const bool fits = entry.is_number_unsigned()
                        ? entry.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<Integer>::max())
                        : entry.get<int64_t>() >= std::numeric_limits<Integer>::min();
  if (!fits) return absl::InvalidArgumentError(StrCat(key, ": is out of range"));
  *value = entry.get<Integer>();
  return absl::OkStatus();
}

absl::StatusOr<MeasuredStep> ReadStep(const Json& object) {
  FRESCO_RETURN_IF_ERROR(
      CheckKeys(object, {"model", "tokens", "rows", "seconds", "count", "activation_bytes"}, "type"));
  MeasuredStep step;
  if (!object.at("model").is_string()) return absl::InvalidArgumentError("model: must be a string");
  step.model = object.at("model").get<std::string>();
  if (object.contains("type")) {
    if (!object.at("type").is_string()) return absl::InvalidArgumentError("type: must be a string");
    step.type = object.at("type").get<std::string>();
  }
  if (!object.at("seconds").is_number()) return absl::InvalidArgumentError("seconds: must be a number");
  step.seconds = object.at("seconds").get<double>();
  FRESCO_RETURN_IF_ERROR(ReadInteger(object, "tokens", &step.tokens));
  FRESCO_RETURN_IF_ERROR(ReadInteger(object, "rows", &step.rows));
  FRESCO_RETURN_IF_ERROR(ReadInteger(object, "count", &step.count));
  FRESCO_RETURN_IF_ERROR(ReadInteger(object, "activation_bytes", &step.activation_bytes));
  return step;
}

absl::Status CheckHeader(const Json& file) {
  if (!file.is_object() || !file.contains("format") || file.at("format") != kFormat) {
    return absl::InvalidArgumentError(StrCat("is no cost model: 'format' must be \"", kFormat, "\""));
  }
  if (!file.contains("version") || file.at("version") != kVersion) {
    // A number alone is said: a value that is nested deep enough would not fit the stack as it is printed.
    const bool number = file.contains("version") && file.at("version").is_number();
    return absl::InvalidArgumentError(StrCat("version ", number ? file.at("version").dump() : "none",
                                             " cannot be read by this program, which knows ", kVersion,
                                             ": delete the file to start anew"));
  }
  FRESCO_RETURN_IF_ERROR(CheckKeys(file, {"format", "version", "steps"}));
  if (!file.at("steps").is_array()) return absl::InvalidArgumentError("steps: must be an array");
  return absl::OkStatus();
}

}  // namespace

std::string CostModelToJson(const CostModel& model) {
  Json steps = Json::array();
  for (const MeasuredStep& step : model.Measured()) {
    Json entry = {{"model", step.model},     {"tokens", step.tokens}, {"rows", step.rows},
                  {"seconds", step.seconds}, {"count", step.count},   {"activation_bytes", step.activation_bytes}};
    if (!step.type.empty()) entry["type"] = step.type;
    steps.push_back(std::move(entry));
  }
  return Json{{"format", kFormat}, {"version", kVersion}, {"steps", std::move(steps)}}.dump(1) + "\n";
}

absl::StatusOr<CostModel> CostModelFromJson(std::string_view json) {
  const Json file = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (file.is_discarded()) return absl::InvalidArgumentError("is not JSON");
  FRESCO_RETURN_IF_ERROR(CheckHeader(file));
  CostModel model;
  int index = 0;
  for (const Json& entry : file.at("steps")) {
    const std::string where = StrCat("steps[", index++, "]");
    const absl::StatusOr<MeasuredStep> step = ReadStep(entry);
    if (!step.ok()) return Annotate(step.status(), where);
    FRESCO_RETURN_IF_ERROR(Annotate(model.Add(*step), where));
  }
  return model;
}

absl::Status SaveCostModel(const CostModel& model, const std::string& path) {
  const std::string temporary = path + ".new";
  {
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    out << CostModelToJson(model);
    out.close();
    if (!out) return absl::UnavailableError(StrCat("cannot write ", temporary));
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    const std::string why = std::generic_category().message(errno);
    std::remove(temporary.c_str());
    return absl::UnavailableError(StrCat("cannot rename ", temporary, " to ", path, ": ", why));
  }
  return absl::OkStatus();
}

absl::StatusOr<CostModel> LoadCostModel(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(StrCat("cannot open ", path));
  std::ostringstream text;
  text << in.rdbuf();
  absl::StatusOr<CostModel> model = CostModelFromJson(text.str());
  if (!model.ok()) return Annotate(model.status(), path);
  return model;
}

}  // namespace fresco
