#include "client/json_output.h"

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "client/rpc_status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using Json = nlohmann::ordered_json;

// Texts come from the server and from file names, which need not be UTF-8.
std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The double that prints as the float does.
double Rounded(float value) {
  double rounded = value;
  (void)absl::SimpleAtod(StrCat(value), &rounded);
  return rounded;
}

Json ToJson(const SavedImage& saved) {
  const DrawnImage& image = saved.image;
  const DrawnProvenance& provenance = image.provenance;
  return {{"file", saved.file},
          {"index", image.index},
          {"seed", image.seed},
          {"width", image.width},
          {"height", image.height},
          {"mime_type", image.mime_type},
          {"bytes", saved.bytes},
          {"provenance",
           {{"model", provenance.model},
            {"weights_digest", provenance.weights_digest},
            {"calibration_digest", provenance.calibration_digest},
            {"precision", provenance.precision},
            {"device", provenance.device},
            {"software", provenance.software},
            {"sampler", provenance.sampler},
            {"steps", provenance.steps},
            {"guidance_scale", Rounded(provenance.guidance)}}}};
}

void AddDrawn(const std::vector<SavedImage>& images, const DrawSummary& summary, Json* json) {
  if (!summary.request_id.empty()) (*json)["request_id"] = summary.request_id;
  if (!summary.trace_id.empty()) (*json)["trace_id"] = summary.trace_id;
  if (!summary.traceparent.empty()) (*json)["traceparent"] = summary.traceparent;
  (*json)["images"] = Json::array();
  for (const SavedImage& image : images) (*json)["images"].push_back(ToJson(image));
  const auto seconds = [](absl::Duration duration) { return absl::ToDoubleSeconds(duration); };
  (*json)["timings"] = {{"queue", seconds(summary.queue)},     {"prepare", seconds(summary.prepare)},
                        {"denoise", seconds(summary.denoise)}, {"decode", seconds(summary.decode)},
                        {"encode", seconds(summary.encode)},   {"total", seconds(summary.total)}};
  (*json)["batch_sizes"] = {
      {"min", summary.batch_size_min}, {"max", summary.batch_size_max}, {"mean", summary.batch_size_mean}};
  (*json)["peak_memory_bytes"] = summary.peak_memory_bytes;
  (*json)["warnings"] = summary.warnings;
}

Json Error(const absl::Status& status) {
  Json error = {{"code", absl::StatusCodeToString(status.code())},
                {"message", std::string(status.message())},
                {"fields", Json::array()}};
  for (const auto& [field, description] : FieldViolations(status)) {
    error["fields"].push_back({{"field", field}, {"description", description}});
  }
  if (const auto delay = RetryAfter(status)) error["retry_after"] = absl::ToDoubleSeconds(*delay);
  if (const auto trace_id = TraceIdOf(status)) error["trace_id"] = *trace_id;
  return error;
}

Json JobJson(const BatchJob& job, const char* status) {
  return {{"line", job.line}, {"status", status}, {"prompt", job.request.prompt}};
}

}  // namespace

std::string DrawnJson(const std::vector<SavedImage>& images, const DrawSummary& summary) {
  Json json;
  AddDrawn(images, summary, &json);
  return Dump(json);
}

std::string ErrorJson(const absl::Status& status) {
  return Dump({{"error", Error(status)}});
}

std::string DoneJobJson(const BatchJob& job, const std::vector<SavedImage>& images, const DrawSummary& summary) {
  Json json = JobJson(job, "done");
  AddDrawn(images, summary, &json);
  return Dump(json);
}

std::string SkippedJobJson(const BatchJob& job, const std::vector<JournalImage>& images) {
  Json json = JobJson(job, "skipped");
  json["images"] = Json::array();
  for (const JournalImage& image : images) json["images"].push_back({{"file", image.file}, {"seed", image.seed}});
  return Dump(json);
}

std::string FailedJobJson(const BatchJob& job, const absl::Status& status) {
  Json json = JobJson(job, "failed");
  json["error"] = Error(status);
  return Dump(json);
}

std::string BatchSummaryJson(int prompts, int done, int skipped, int failed, absl::Duration elapsed) {
  return Dump({{"summary",
                {{"prompts", prompts},
                 {"done", done},
                 {"skipped", skipped},
                 {"failed", failed},
                 {"seconds", absl::ToDoubleSeconds(elapsed)}}}});
}

}  // namespace fresco
