#include "pipeline/precision/calibration.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "pipeline/kernels/e4m3.h"

namespace fresco {

size_t SigmaBuckets::Of(float sigma) const {
  size_t bucket = 0;
  while (bucket + 1 < upper.size() && sigma <= upper[bucket + 1]) ++bucket;
  return bucket;
}

SigmaBuckets BucketsOf(const std::vector<float>& sigmas, size_t count) {
  SigmaBuckets buckets;
  const size_t steps = sigmas.size() - 1;  // the last is where the last step leads to
  const size_t made = std::clamp<size_t>(count, 1, steps);
  for (size_t i = 0; i < made; ++i) {
    const size_t first = i * steps / made;
    // Halfway to the step before: other numbers of steps pass levels of their own.
    buckets.upper.push_back(first == 0 ? 1.0F : (sigmas[first - 1] + sigmas[first]) / 2);
  }
  return buckets;
}

float ActivationRange::absmax() const {
  return std::max(std::abs(min), std::abs(max));
}

float LayerCalibration::absmax() const {
  float largest = 0;
  for (const ActivationRange& range : ranges) largest = std::max(largest, range.absmax());
  return largest;
}

std::optional<float> LayerCalibration::InputScale(LinearScheme scheme) const {
  if (!QuantisesActivations(scheme)) return std::nullopt;
  const float scale = absmax() / (IsFp8(scheme) ? kernels::kE4M3Largest : kernels::kInt8Largest);
  return scale >= kernels::kSmallestScale && scale <= FLT_MAX ? std::optional(scale) : std::nullopt;
}

const LayerCalibration* Calibration::Find(std::string_view layer) const {
  for (const LayerCalibration& entry : layers) {
    if (std::find(entry.names.begin(), entry.names.end(), layer) != entry.names.end()) return &entry;
  }
  return nullptr;
}

void KeepInputsHigh(std::string_view precision, const LayerTable& table, double share, Calibration* calibration) {
  const std::string key(precision);
  const auto work = [](const LayerCalibration& layer) {
    return static_cast<double>(layer.tokens) * static_cast<double>(layer.outputs) *
           static_cast<double>(layer.channel_absmax.size());
  };
  const auto gain = [&](const LayerCalibration* layer) {
    return std::pow(static_cast<double>(layer->input_sensitivity.at(key)), 2) / work(*layer);
  };
  double left = 0;
  std::vector<LayerCalibration*> layers;
  for (LayerCalibration& layer : calibration->layers) {
    if (!layer.input_sensitivity.contains(key) || !(work(layer) > 0)) continue;
    left += share * work(layer);
    layers.push_back(&layer);
  }
  std::stable_sort(layers.begin(), layers.end(), [&](const auto* a, const auto* b) { return gain(a) > gain(b); });
  for (LayerCalibration* const layer : layers) {
    if (work(*layer) > left) continue;
    left -= work(*layer);
    layer->scheme[key] = StorageOnly(table.Of(layer->names.front()));
  }
}

std::vector<LayerTable::Rule> RulesOf(const Calibration& calibration, std::string_view precision) {
  std::vector<LayerTable::Rule> rules;
  for (const LayerCalibration& layer : calibration.layers) {
    const auto own = layer.scheme.find(std::string(precision));
    if (own == layer.scheme.end()) continue;
    for (const std::string& name : layer.names) rules.push_back({name, own->second});
  }
  return rules;
}

void SetStaticScales(const Calibration& calibration, LayerTable* table) {
  for (const LayerCalibration& layer : calibration.layers) {
    for (const std::string& name : layer.names) {
      if (const std::optional<float> scale = layer.InputScale(table->Of(name))) table->SetInputScale(name, *scale);
    }
  }
}

}  // namespace fresco
