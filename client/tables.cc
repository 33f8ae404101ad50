#include "client/tables.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/progress.h"
#include "fresco/v1/image_generation.pb.h"
#include "fresco/v1/operations.pb.h"
#include "pipeline/base/format_bytes.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

// Characters, not bytes: continuation bytes count nothing.
size_t Width(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

std::string Json(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  return status.ok() ? json : "{}";
}

std::string StateText(const v1::Model& model) {
  switch (model.state()) {
    case v1::Model::LOADING:
      return "loading";
    case v1::Model::READY:
      return "ready";
    case v1::Model::FAILED:
      return "failed";
    case v1::Model::UNLOADED:
      return "unloaded";
    case v1::Model::UNLOADING:
      return "unloading";
    default:
      return "unknown";
  }
}

std::string OrDash(const std::string& text) {
  return text.empty() ? "-" : text;
}

std::vector<std::string> ModelRow(const v1::Model& model) {
  std::vector<std::string> row = {model.name(), StateText(model), OrDash(model.architecture()),
                                  OrDash(model.precision()), OrDash(absl::StrJoin(model.devices(), ","))};
  const bool without = model.state() != v1::Model::READY;  // its numbers mean nothing
  row.push_back(without ? "-" : StrCat(model.default_width(), "x", model.default_height()));
  row.push_back(without ? "-" : StrCat(model.default_steps()));
  row.push_back(without ? "-" : absl::StrFormat("%g", model.default_guidance_scale()));
  row.push_back(
      without ? "-" : StrCat("up to ", model.max_width(), "x", model.max_height(), ", ", model.max_steps(), " steps"));
  return row;
}

std::string WeightsText(const v1::Device& device) {
  const std::string weights = FormatBytes(device.memory_weights_bytes());
  return device.memory_budget_bytes() == 0 ? weights
                                           : StrCat(weights, " of ", FormatBytes(device.memory_budget_bytes()));
}

std::string DevicesText(const v1::GetStatusResponse& response) {
  std::vector<std::vector<std::string>> rows = {{"DEVICE", "MODELS", "BATCH", "WEIGHTS", "ALLOCATED", "PEAK"}};
  std::string notes;
  for (const v1::Device& device : response.devices()) {
    rows.push_back({device.name(), absl::StrJoin(device.models(), ","), StrCat(device.batch_size()),
                    WeightsText(device), FormatBytes(device.memory_allocated_bytes()),
                    FormatBytes(device.memory_peak_bytes())});
    if (!device.lost().empty()) notes += StrCat(device.name(), ": LOST: ", device.lost(), "\n");
    for (const std::string& note : device.notes()) notes += StrCat(device.name(), ": ", note, "\n");
  }
  return rows.size() == 1 ? "" : StrCat("\n", FormatTable(rows), notes);
}

std::string RequestsText(const v1::GetStatusResponse& response) {
  std::vector<std::vector<std::string>> rows = {{"REQUEST", "MODEL", "STATE", "IMAGES", "STEPS", "AGE"}};
  for (const v1::RunningRequest& request : response.requests()) {
    rows.push_back({request.request_id(), request.model(), request.waiting() ? "waiting" : "running",
                    StrCat(request.images_done(), "/", request.image_count()),
                    StrCat(request.steps_done(), "/", request.total_steps()),
                    FormatClock(absl::Seconds(request.age().seconds()))});
  }
  return rows.size() == 1 ? "" : StrCat("\n", FormatTable(rows));
}

}  // namespace

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) line += row[i] + std::string(widths[i] - Width(row[i]) + 2, ' ');
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string ModelsText(const v1::ListModelsResponse& response) {
  std::vector<std::vector<std::string>> rows = {
      {"MODEL", "STATE", "ARCHITECTURE", "PRECISION", "DEVICES", "SIZE", "STEPS", "GUIDANCE", "LIMITS"}};
  std::string errors;
  for (const v1::Model& model : response.models()) {
    rows.push_back(ModelRow(model));
    if (!model.error().empty()) errors += StrCat(model.name(), ": ", model.error(), "\n");
  }
  return FormatTable(rows) + (errors.empty() ? "" : "\n" + errors);
}

std::string StatusText(const v1::GetStatusResponse& response) {
  return StrCat("fresco ", response.version(), ", up ", FormatClock(absl::Seconds(response.uptime().seconds())),
                response.draining() ? ", draining" : "", "\n", response.requests_running(), " running, ",
                response.requests_waiting(), " waiting (at most ", response.max_queue(), ")\n", DevicesText(response),
                RequestsText(response));
}

std::string LoadModelText(const v1::LoadModelResponse& response) {
  std::string text =
      StrCat("loaded ", response.model().name(), " on ", absl::StrJoin(response.model().devices(), ", "));
  if (!response.evicted().empty()) text += StrCat("; unloaded for it: ", absl::StrJoin(response.evicted(), ", "));
  return text + "\n";
}

std::string UnloadModelText(const v1::UnloadModelResponse& response) {
  const v1::Model& model = response.model();
  const std::string left = absl::StrJoin(model.devices(), ", ");
  return StrCat("unloaded ", model.name(), left.empty() ? "" : StrCat("; it is still on ", left), "\n");
}

std::string ModelsJson(const v1::ListModelsResponse& response) {
  return Json(response);
}
std::string StatusJson(const v1::GetStatusResponse& response) {
  return Json(response);
}
std::string LoadModelJson(const v1::LoadModelResponse& response) {
  return Json(response);
}
std::string UnloadModelJson(const v1::UnloadModelResponse& response) {
  return Json(response);
}
std::string ProfileJson(const v1::StepProfile& profile) {
  return Json(profile);
}

}  // namespace fresco
