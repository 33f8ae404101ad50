#include "pipeline/tool/activations.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/text_file.h"
#include "pipeline/engine/inspection.h"
#include "pipeline/image/codec.h"
#include "pipeline/tool/activations_page.h"
#include "pipeline/tool/draw.h"
#include "pipeline/tool/feature_sheet.h"
#include "pipeline/tool/json_print.h"
#include "pipeline/tool/progress_line.h"
#include "pipeline/tool/prompts_file.h"

namespace fresco {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kDefaultPrompt[] = "a red apple on a light blue background";

absl::StatusOr<std::vector<std::string>> PromptsOf(const DrawOptions& draw, const ActivationsOptions& options) {
  if (!options.prompts_file.empty()) return ReadPrompts(options.prompts_file);
  return std::vector<std::string>{draw.prompt.value_or(kDefaultPrompt)};
}

// Writes each step's sheet as it comes.
class FeatureWriter {
 public:
  FeatureWriter(std::string folder) : folder_(std::move(folder)) {}

  void Write(const FeatureMaps& maps) {
    if (!status_.ok()) return;
    const std::string name =
        StrCat(absl::StrReplaceAll(maps.layer, {{"/", "_"}}), absl::StrFormat("-%03d.png", maps.step));
    status_ = WriteSheet(maps, (std::filesystem::path(folder_) / name).string());
  }
  const absl::Status& status() const { return status_; }
  const std::vector<std::string>& files() const { return files_; }
  // Of each file, which channels are on it: "64 of 256 channels of 8x8, the largest 12 (to 3120), 98 (to 2864), …".
  const std::vector<std::string>& contents() const { return contents_; }

 private:
  static std::string Contents(const FeatureMaps& maps) {
    constexpr size_t kNamed = 4;
    std::string text = StrCat(maps.channels.size(), " of ", maps.all_channels, " channels of ", maps.width, "x",
                              maps.height, ", the largest");
    for (size_t i = 0; i < std::min(kNamed, maps.channels.size()); ++i)
      text += absl::StrFormat("%s %d (to %.4g)", i == 0 ? "" : ",", maps.channels[i], maps.absmax[i]);
    return text;
  }

  absl::Status WriteSheet(const FeatureMaps& maps, const std::string& path) {
    FRESCO_ASSIGN_OR_RETURN(const Image sheet, FeatureSheet(maps));
    FRESCO_ASSIGN_OR_RETURN(const std::string png, EncodeImage(sheet, {}));
    FRESCO_RETURN_IF_ERROR(WriteFileWhole(path, png));
    files_.push_back(path);
    contents_.push_back(Contents(maps));
    return absl::OkStatus();
  }

  const std::string folder_;
  absl::Status status_;
  std::vector<std::string> files_, contents_;
};

Json Number(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

Json DecibelsJson(const Fidelity& fidelity) {
  if (!fidelity.known()) return nullptr;
  const double decibels = fidelity.decibels();
  return std::isinf(decibels) && decibels > 0 ? Json("equal") : Number(decibels);
}

Json ToJson(const InspectedStep& step) {
  const ActivationRange range = step.values.Range();
  Json percentiles = Json::object();
  for (size_t i = 0; i < kPercentiles.size(); ++i) percentiles[StrCat(kPercentiles[i])] = Number(range.percentiles[i]);
  return {{"elements", range.count},
          {"min", Number(range.min)},
          {"max", Number(range.max)},
          {"absmax", Number(range.absmax())},
          {"percentiles", std::move(percentiles)},
          {"nan", step.nan},
          {"infinite", step.infinite},
          {"beyond_e4m3", step.beyond_e4m3},
          {"saturated", step.saturated},
          {"guarded", step.guarded},
          {"own_db", DecibelsJson(step.own)},
          {"through_db", DecibelsJson(step.through)}};
}

bool HasPart(const InspectedStep& step) {
  return step.values.counts().count > 0 || step.saturated > 0 || step.guarded > 0;
}

const char* KindName(InspectedLayer::Kind kind) {
  if (kind == InspectedLayer::Kind::kLinear) return "linear";
  return kind == InspectedLayer::Kind::kStage ? "stage" : "other";
}

Json ToJson(const InspectedLayer& layer) {
  Json json = {{"name", layer.name},         {"kind", KindName(layer.kind)},
               {"with", layer.others},       {"scheme", layer.scheme.empty() ? Json() : Json(layer.scheme)},
               {"all", ToJson(layer.all())}, {"steps", Json::array()}};
  for (const InspectedStep& step : layer.steps) json["steps"].push_back(HasPart(step) ? ToJson(step) : Json());
  return json;
}

void PrintAsJson(const Inspection& inspection, const std::vector<std::string>& features) {
  const ImageSpec& spec = inspection.specs.front();
  const bool against = !inspection.reference.precision.empty();
  const InspectedLayer* const fallen = FirstToFall(inspection);
  Json report = {{"model", inspection.model.name},
                 {"precision", inspection.model.precision},
                 {"device", inspection.model.device},
                 {"against", against ? Json(inspection.reference.precision) : Json()},
                 {"notes", inspection.model.notes},
                 {"prompts", Json::array()},
                 {"width", spec.width},
                 {"height", spec.height},
                 {"steps", spec.steps},
                 {"guidance_scale", spec.guidance_scale},
                 {"first_to_fall", fallen == nullptr ? Json() : Json(fallen->name)},
                 {"ranked", Json::array()},
                 {"features", features},
                 {"layers", Json::array()}};
  for (const ImageSpec& each : inspection.specs)
    report["prompts"].push_back({{"prompt", each.prompt}, {"seed", each.seed}});
  for (const InspectedLayer* layer : ByOwnNoise(inspection)) report["ranked"].push_back(layer->name);
  for (const InspectedLayer& layer : inspection.layers) report["layers"].push_back(ToJson(layer));
  PrintJson(report);
}

void PrintRow(const InspectedLayer& layer, bool against) {
  const InspectedStep all = layer.all();
  const ActivationRange range = all.values.Range();
  const int64_t elements = std::max<int64_t>(1, range.count);
  const std::string bad = all.nan + all.infinite == 0 ? "-" : StrCat(all.nan + all.infinite);
  std::printf("%-15s %10.4g %10.4g %10.4g %10.4g %8s %10s %10s %10s", layer.scheme.c_str(),
              static_cast<double>(range.min), static_cast<double>(range.max), static_cast<double>(range.absmax()),
              static_cast<double>(range.percentiles[1]), bad.c_str(), ShareText(all.beyond_e4m3, elements).c_str(),
              ShareText(all.saturated, elements).c_str(), ShareText(all.guarded, elements).c_str());
  if (against) std::printf(" %8s %8s", FidelityText(all.own).c_str(), FidelityText(all.through).c_str());
  std::printf("  %s%s\n", layer.name.c_str(),
              layer.others.empty() ? "" : StrCat(" (+ ", layer.others.size(), ")").c_str());
}

void PrintHead(bool against) {
  std::printf("%-15s %10s %10s %10s %10s %8s %10s %10s %10s", "scheme", "min", "max", "absmax", "99.9 %", "NaN, inf",
              "above 448", "saturated", "guarded");
  if (against) std::printf(" %8s %8s", "own dB", "all dB");
  std::printf("  layer\n");
}

void PrintFall(const Inspection& inspection) {
  const std::vector<const InspectedLayer*> ranked = ByOwnNoise(inspection);
  if (ranked.empty()) {
    std::printf("\nno linear is quantised: there is nothing to rank\n");
    return;
  }
  std::printf("\nquantised linears by the noise of their own, the worst first:\n");
  constexpr size_t kShown = 10;
  for (size_t i = 0; i < std::min(kShown, ranked.size()); ++i)
    std::printf("  %8s dB  %s\n", FidelityText(ranked[i]->all().own).c_str(), ranked[i]->name.c_str());
  const std::string median = FidelityText(ranked[ranked.size() / 2]->all().own);
  if (const InspectedLayer* const fallen = FirstToFall(inspection); fallen != nullptr) {
    std::printf("first to fall: %s: %s dB, where the median is %s dB\n", fallen->name.c_str(),
                FidelityText(fallen->all().own).c_str(), median.c_str());
  } else {
    std::printf("none falls: the median is %s dB, and no layer lies %.0f dB below it\n", median.c_str(), kFall);
  }
}

void PrintTable(const Inspection& inspection) {
  const bool against = !inspection.reference.precision.empty();
  const ImageSpec& spec = inspection.specs.front();
  std::printf("%s, %s on %s: %zu %s, %dx%d, %d steps%s\n", PrintableName(inspection.model.name).c_str(),
              inspection.model.precision.c_str(), inspection.model.device.c_str(), inspection.specs.size(),
              inspection.specs.size() == 1 ? "prompt" : "prompts", spec.width, spec.height, spec.steps,
              against ? StrCat(", against ", inspection.reference.precision).c_str() : "");
  for (const std::string& note : inspection.model.notes) std::printf("%s\n", note.c_str());
  std::printf("\n");
  PrintHead(against);
  for (const InspectedLayer& layer : inspection.layers) PrintRow(layer, against);
  if (against) PrintFall(inspection);
}

}  // namespace

absl::Status RunActivations(const ModelOptions& model, const DrawOptions& draw, const ActivationsOptions& options) {
  FRESCO_ASSIGN_OR_RETURN(const std::vector<std::string> prompts, PromptsOf(draw, options));
  if (!options.features.empty() && !std::filesystem::is_directory(options.output))
    return absl::NotFoundError(StrCat(options.output, ": is no folder to write feature maps to"));
  FeatureWriter features(options.output);
  ProgressLine line;
  InspectionOptions inspect;
  inspect.load = LoadOptionsOf(model);
  inspect.against = options.against;
  inspect.specs = [&](const ModelInfo& info) { return SpecsOf(prompts, draw, info); };
  inspect.features = options.features;
  inspect.on_features = [&](const FeatureMaps& maps) { features.Write(maps); };
  inspect.on_progress = [&](int64_t done, int64_t total) {
    line.Show(StrCat("step ", done, "/", total), done == total);
  };
  const absl::StatusOr<Inspection> inspection = InspectActivations(inspect);
  line.End();
  FRESCO_RETURN_IF_ERROR(inspection.status());
  FRESCO_RETURN_IF_ERROR(features.status());
  if (!options.html.empty()) FRESCO_RETURN_IF_ERROR(WriteFileWhole(options.html, ActivationsPage(*inspection)));
  if (model.json) {
    PrintAsJson(*inspection, features.files());
  } else {
    PrintTable(*inspection);
    for (size_t i = 0; i < features.files().size(); ++i)
      std::printf("%s: %s\n", features.files()[i].c_str(), features.contents()[i].c_str());
  }
  return absl::OkStatus();
}

}  // namespace fresco
