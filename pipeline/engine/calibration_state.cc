#include "pipeline/engine/calibration_state.h"

#include <algorithm>
#include <climits>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_parse.h"
#include "pipeline/checkpoint/sha256.h"
#include "pipeline/checkpoint/text_file.h"
#include "pipeline/engine/json_fields.h"

namespace fresco {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxBytes = size_t{1} << 30;
constexpr int kMaxDepth = 8;
constexpr int64_t kLastBin = InputStatistics::kBins - 1;

// The histogram as two lists: bins that are not empty, and their counts.
Json ToJson(const InputStatistics::Counts& counts) {
  Json bins = Json::array(), sizes = Json::array();
  for (const auto& [bin, size] : counts.bins) {
    bins.push_back(bin);
    sizes.push_back(size);
  }
  return {{"count", counts.count},
          {"min", ShortFloat(counts.min)},
          {"max", ShortFloat(counts.max)},
          {"bins", std::move(bins)},
          {"sizes", std::move(sizes)}};
}

InputStatistics ReadStatistics(JsonFields& fields) {
  InputStatistics::Counts counts{fields.Int("count", 0, INT64_MAX), fields.Float("min"), fields.Float("max"), {}};
  const std::vector<int64_t> bins = fields.Ints("bins", 0, kLastBin), sizes = fields.Ints("sizes", 1, INT64_MAX);
  if (bins.size() != sizes.size()) {
    fields.Error("sizes", "must be as many as bins");
    return {};
  }
  for (size_t i = 0; i < bins.size(); ++i) counts.bins.emplace_back(bins[i], sizes[i]);
  return InputStatistics::FromCounts(counts);
}

Json ToJson(const LayerStatistics& layer) {
  Json buckets = Json::array();
  for (const InputStatistics& bucket : layer.buckets) buckets.push_back(ToJson(bucket.counts()));
  return {{"names", layer.names},
          {"outputs", layer.outputs},
          {"buckets", std::move(buckets)},
          {"rows", layer.channels.rows},
          {"channel_absmax", ShortFloats(layer.channels.absmax)},
          {"channel_sum", layer.channels.sum}};
}

LayerStatistics ReadLayer(JsonFields& fields) {
  LayerStatistics layer;
  layer.names = fields.Strings("names");
  layer.outputs = fields.Int("outputs", 1, INT64_MAX);
  fields.Objects("buckets", [&](JsonFields& bucket) { layer.buckets.push_back(ReadStatistics(bucket)); });
  layer.channels.rows = fields.Int("rows", 0, INT64_MAX);
  layer.channels.absmax = fields.Floats("channel_absmax");
  layer.channels.sum = fields.Doubles("channel_sum");
  if (layer.channels.sum.size() != layer.channels.absmax.size())
    fields.Error("channel_sum", "must be as many as channel_absmax");
  return layer;
}

Json ToJson(const AffineFit& fit) {
  return {{"count", fit.count},           {"x", fit.x},
          {"residual", fit.residual},     {"xx", fit.xx},
          {"x_residual", fit.x_residual}, {"residual_squared", fit.residual_squared}};
}

AffineFit ReadFit(JsonFields& fields) {
  AffineFit fit;
  fit.count = fields.Int("count", 0, INT64_MAX);
  fit.x = fields.Double("x");
  fit.residual = fields.Double("residual");
  fit.xx = fields.Double("xx");
  fit.x_residual = fields.Double("x_residual");
  fit.residual_squared = fields.Double("residual_squared");
  return fit;
}

Json ToJson(const std::map<std::string, float>& errors) {
  Json json = Json::object();
  for (const auto& [layer, error] : errors) json[layer] = ShortFloat(error);
  return json;
}

Json ToJson(const CalibrationState& state) {
  Json layers = Json::array(), fits = Json::array();
  for (const LayerStatistics& layer : state.layers) layers.push_back(ToJson(layer));
  for (const std::vector<AffineFit>& channels : state.fits) {
    Json& bucket = fits.emplace_back(Json::array());
    for (const AffineFit& fit : channels) bucket.push_back(ToJson(fit));
  }
  return {{"run", state.run},
          {"prompts_measured", state.prompts_measured},
          {"layers", std::move(layers)},
          {"sensitivity", ToJson(state.sensitivity)},
          {"input_sensitivity", ToJson(state.input_sensitivity)},
          {"prompts_fitted", state.prompts_fitted},
          {"fits", std::move(fits)}};
}

CalibrationState Read(JsonFields& fields) {
  CalibrationState state;
  state.run = fields.String("run");
  state.prompts_measured = static_cast<int>(fields.Int("prompts_measured", 0, INT_MAX));
  fields.Objects("layers", [&](JsonFields& layer) { state.layers.push_back(ReadLayer(layer)); });
  state.sensitivity = fields.FloatMap("sensitivity");
  state.input_sensitivity = fields.FloatMap("input_sensitivity");
  state.prompts_fitted = static_cast<int>(fields.Int("prompts_fitted", 0, INT_MAX));
  fields.ObjectLists("fits", [&](size_t bucket, JsonFields& fit) {
    state.fits.resize(bucket + 1);
    state.fits[bucket].push_back(ReadFit(fit));
  });
  fields.Finish();
  return state;
}

// Below its digest, by which a state that somebody else has touched is known: the run that goes on trusts its own.
std::string WithDigest(std::string_view state) {
  Sha256 hash;
  hash.Add(state);
  return StrCat(hash.FinishHex(), "\n", state);
}

}  // namespace

absl::StatusOr<CalibrationState> ReadCalibrationState(const std::string& path) {
  FRESCO_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxBytes));
  const std::string_view state_text = std::string_view(text).substr(std::min(text.find('\n') + 1, text.size()));
  if (text != WithDigest(state_text))
    return absl::InvalidArgumentError(StrCat(path, ": is damaged: start anew without it"));
  absl::StatusOr<Json> json = ParseJson(state_text, kMaxDepth);
  if (!json.ok()) return Annotate(json.status(), path);
  FieldErrors errors(path);
  JsonFields fields(*json, "", &errors);
  CalibrationState state = Read(fields);
  FRESCO_RETURN_IF_ERROR(errors.status());
  return state;
}

absl::Status WriteCalibrationState(const CalibrationState& state, const std::string& path) {
  return WriteFileWhole(path, WithDigest(ToJson(state).dump()));
}

}  // namespace fresco
