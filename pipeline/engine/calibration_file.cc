#include "pipeline/engine/calibration_file.h"

#include <algorithm>
#include <climits>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_parse.h"
#include "pipeline/checkpoint/sha256.h"
#include "pipeline/checkpoint/text_file.h"
#include "pipeline/engine/json_fields.h"

namespace fresco {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr char kFormat[] = "fresco-calibration";
constexpr int kVersion = 1;
constexpr size_t kMaxBytes = 256 << 20;
constexpr int kMaxDepth = 8;

std::vector<float> ReadMagnitudes(JsonFields& fields, std::string_view key) {
  std::vector<float> magnitudes = fields.Floats(key);
  if (std::any_of(magnitudes.begin(), magnitudes.end(), [](float magnitude) { return magnitude < 0; }))
    fields.Error(key, "must not be below 0");
  return magnitudes;
}

// What is said of a precision that does not exist would never be used, and nobody would know.
void CheckPrecision(JsonFields& fields, std::string_view key, const std::string& precision) {
  if (LayerTable::ForTransformer(precision).rules().empty())
    fields.Error(key, StrCat("'", PrintableName(precision), "' is no precision that quantises"));
}

std::map<std::string, float> ReadErrors(JsonFields& fields, std::string_view key) {
  std::map<std::string, float> errors = fields.FloatMap(key);
  for (const auto& [precision, error] : errors) {
    CheckPrecision(fields, key, precision);
    if (error < 0) fields.Error(key, "must not be below 0");
  }
  return errors;
}

ActivationRange ReadRange(JsonFields& fields) {
  ActivationRange range;
  range.count = fields.Int("count", 0, INT64_MAX);
  range.min = fields.Float("min");
  range.max = fields.Float("max");
  const std::vector<float> percentiles = ReadMagnitudes(fields, "percentiles");
  if (percentiles.size() == kPercentiles.size()) {
    std::copy(percentiles.begin(), percentiles.end(), range.percentiles.begin());
  } else {
    fields.Error("percentiles", StrCat("must be ", kPercentiles.size(), " numbers"));
  }
  if (range.min > range.max) fields.Error("min", "is above max");
  return range;
}

LayerCalibration ReadLayer(JsonFields& fields, size_t buckets) {
  LayerCalibration layer;
  layer.names = fields.Strings("names");
  if (layer.names.empty()) fields.Error("names", "must name a layer");
  layer.outputs = fields.Int("outputs", 1, INT64_MAX);
  layer.tokens = fields.Int("tokens", 0, INT64_MAX);
  fields.Objects("ranges", [&](JsonFields& range) { layer.ranges.push_back(ReadRange(range)); });
  if (layer.ranges.size() != buckets) fields.Error("ranges", StrCat("must be ", buckets, ", one for each bucket"));
  layer.channel_absmax = ReadMagnitudes(fields, "channel_absmax");
  layer.channel_mean = fields.Floats("channel_mean");
  if (layer.channel_mean.size() != layer.channel_absmax.size())
    fields.Error("channel_mean", "must be as many as channel_absmax");
  layer.sensitivity = ReadErrors(fields, "sensitivity");
  layer.input_sensitivity = ReadErrors(fields, "input_sensitivity");
  for (const auto& [precision, name] : fields.StringMap("scheme")) {
    CheckPrecision(fields, "scheme", precision);
    const std::optional<LinearScheme> scheme = ParseScheme(name);
    if (!scheme) fields.Error("scheme", StrCat("'", PrintableName(name), "' is unknown"));
    layer.scheme[precision] = scheme.value_or(LinearScheme::kHigh);
  }
  return layer;
}

AffineCorrection ReadCorrection(JsonFields& fields) {
  AffineCorrection correction{fields.Floats("scale"), fields.Floats("offset")};
  if (correction.scale.empty() || correction.scale.size() != correction.offset.size())
    fields.Error("offset", "must be as many as scale, at least one: one for each latent channel");
  const auto positive = [](float scale) { return scale > 0; };
  if (!std::all_of(correction.scale.begin(), correction.scale.end(), positive))
    fields.Error("scale", "must be above 0");
  return correction;
}

void ReadNoiseCorrection(JsonFields& fields, const std::string& precision, size_t buckets, Calibration* calibration) {
  NoiseCorrection& correction = calibration->noise_correction[precision];
  fields.Objects("buckets", [&](JsonFields& bucket) { correction.push_back(ReadCorrection(bucket)); });
  if (correction.size() != buckets) fields.Error("buckets", StrCat("must be ", buckets));
  const auto differs = [&](const AffineCorrection& other) {
    return other.scale.size() != correction.front().scale.size();
  };
  if (std::any_of(correction.begin(), correction.end(), differs))
    fields.Error("buckets", "must all have the same number of channels");
}

void ReadDrawing(JsonFields& fields, Calibration* calibration) {
  calibration->prompts = static_cast<int>(fields.Int("prompts", 1, INT_MAX));
  calibration->steps = static_cast<int>(fields.Int("steps", 1, INT_MAX));
  calibration->width = static_cast<int>(fields.Int("width", 1, INT_MAX));
  calibration->height = static_cast<int>(fields.Int("height", 1, INT_MAX));
  calibration->guidance_scale = fields.Float("guidance_scale");
  calibration->seed = fields.Unsigned("seed");
}

void CheckBuckets(const SigmaBuckets& buckets, JsonFields& fields) {
  const std::vector<float>& upper = buckets.upper;
  const auto not_falling = [](float before, float after) { return after >= before; };
  if (upper.empty() || upper.front() != 1 || !(upper.back() > 0) ||
      std::adjacent_find(upper.begin(), upper.end(), not_falling) != upper.end())
    fields.Error("sigma_buckets", "must fall from 1 and stay above 0");
}

void CheckNames(const Calibration& calibration, JsonFields& fields) {
  std::set<std::string> seen;
  for (const LayerCalibration& layer : calibration.layers) {
    for (const std::string& name : layer.names) {
      if (name.empty() || !seen.insert(name).second)
        fields.Error("layers", StrCat("'", PrintableName(name), "' is empty or named twice"));
      if (name.find('*') != std::string::npos)
        fields.Error("layers", StrCat("'", PrintableName(name), "' is a pattern, not a layer's name"));
    }
  }
}

Calibration Read(JsonFields& fields) {
  Calibration calibration;
  if (fields.String("format") != kFormat) fields.Error("format", StrCat("must be \"", kFormat, "\""));
  if (fields.Int("version", 0, INT_MAX) != kVersion)
    fields.Error("version", StrCat("must be ", kVersion, ", the only one that this program reads"));
  calibration.model = fields.String("model");
  calibration.weights_digest = fields.String("weights_digest");
  ReadDrawing(fields, &calibration);
  calibration.buckets.upper = fields.Floats("sigma_buckets");
  CheckBuckets(calibration.buckets, fields);
  const size_t buckets = calibration.buckets.size();
  fields.Objects("layers", [&](JsonFields& layer) { calibration.layers.push_back(ReadLayer(layer, buckets)); });
  CheckNames(calibration, fields);
  fields.ObjectMap("noise_correction", [&](const std::string& precision, JsonFields& value) {
    CheckPrecision(fields, "noise_correction", precision);
    ReadNoiseCorrection(value, precision, buckets, &calibration);
  });
  calibration.rounded_weights = fields.StringMap("rounded_weights");
  for (const auto& [precision, file] : calibration.rounded_weights) {
    CheckPrecision(fields, "rounded_weights", precision);
    if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos)
      fields.Error("rounded_weights", StrCat("'", PrintableName(file), "' is not the name of a file beside this one"));
  }
  fields.Finish();
  return calibration;
}

Json ToJson(const ActivationRange& range) {
  return {{"count", range.count},
          {"min", ShortFloat(range.min)},
          {"max", ShortFloat(range.max)},
          {"percentiles", ShortFloats({range.percentiles.begin(), range.percentiles.end()})}};
}

OrderedJson ToJson(const LayerCalibration& layer) {
  Json ranges = Json::array();
  for (const ActivationRange& range : layer.ranges) ranges.push_back(ToJson(range));
  Json sensitivity = Json::object(), input_sensitivity = Json::object(), scheme = Json::object();
  for (const auto& [precision, error] : layer.sensitivity) sensitivity[precision] = ShortFloat(error);
  for (const auto& [precision, error] : layer.input_sensitivity) input_sensitivity[precision] = ShortFloat(error);
  for (const auto& [precision, own] : layer.scheme) scheme[precision] = std::string(SchemeName(own));
  return {{"names", layer.names},
          {"outputs", layer.outputs},
          {"tokens", layer.tokens},
          {"ranges", std::move(ranges)},
          {"channel_absmax", ShortFloats(layer.channel_absmax)},
          {"channel_mean", ShortFloats(layer.channel_mean)},
          {"sensitivity", std::move(sensitivity)},
          {"input_sensitivity", std::move(input_sensitivity)},
          {"scheme", std::move(scheme)}};
}

Json ToJson(const std::map<std::string, NoiseCorrection>& corrections) {
  Json json = Json::object();
  for (const auto& [precision, buckets] : corrections) {
    Json list = Json::array();
    for (const AffineCorrection& bucket : buckets)
      list.push_back({{"scale", ShortFloats(bucket.scale)}, {"offset", ShortFloats(bucket.offset)}});
    json[precision] = {{"buckets", std::move(list)}};
  }
  return json;
}

// One layer to a line: for people and for diff.
std::string Text(const Calibration& calibration) {
  OrderedJson head = {{"format", kFormat},
                      {"version", kVersion},
                      {"model", calibration.model},
                      {"weights_digest", calibration.weights_digest},
                      {"prompts", calibration.prompts},
                      {"steps", calibration.steps},
                      {"width", calibration.width},
                      {"height", calibration.height},
                      {"guidance_scale", ShortFloat(calibration.guidance_scale)},
                      {"seed", calibration.seed},
                      {"sigma_buckets", ShortFloats(calibration.buckets.upper)},
                      {"rounded_weights", calibration.rounded_weights},
                      {"noise_correction", ToJson(calibration.noise_correction)}};
  std::string text = "{";
  const auto replace = OrderedJson::error_handler_t::replace;
  for (const auto& [key, value] : head.items())
    text += StrCat("\"", key, "\": ", value.dump(-1, ' ', false, replace), ",\n ");
  text += "\"layers\": [";
  for (size_t i = 0; i < calibration.layers.size(); ++i)
    text += StrCat(i == 0 ? "\n  " : ",\n  ", ToJson(calibration.layers[i]).dump(-1, ' ', false, replace));
  return text + "]}\n";
}

}  // namespace

absl::StatusOr<Calibration> ReadCalibration(const std::string& path) {
  FRESCO_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxBytes));
  absl::StatusOr<Json> json = ParseJson(text, kMaxDepth);
  if (!json.ok()) return Annotate(json.status(), path);
  FieldErrors errors(path);
  JsonFields fields(*json, "", &errors);
  Calibration calibration = Read(fields);
  FRESCO_RETURN_IF_ERROR(errors.status());
  return calibration;
}

absl::StatusOr<std::string> DigestCalibration(const std::string& path) {
  FRESCO_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxBytes));
  Sha256 hash;
  hash.Add(text);
  return StrCat("sha256:", hash.FinishHex());
}

absl::Status WriteCalibration(const Calibration& calibration, const std::string& path) {
  return WriteFileWhole(path, Text(calibration));
}

}  // namespace fresco
