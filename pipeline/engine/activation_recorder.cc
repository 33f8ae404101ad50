#include "pipeline/engine/activation_recorder.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <utility>

#include "pipeline/base/strings.h"
#include "pipeline/precision/quantized_linear.h"

namespace fresco {
namespace {

constexpr char kTransformer[] = "transformer.";
constexpr float kLargestE4m3 = 448;
constexpr int64_t kChunk = 1 << 16;  // elements that a thread counts at a time

// Without its tap: who computes with it is not told of that.
Linear Untapped(Linear linear) {
  linear.tap = nullptr;
  return linear;
}

LinearScheme SchemeOf(const Linear& linear) {
  return linear.quantized == nullptr ? LinearScheme::kHigh : linear.quantized->scheme();
}

std::string SchemeText(const Linear& linear) {
  if (linear.parts == nullptr) return std::string(SchemeName(SchemeOf(linear)));
  const LinearScheme first = SchemeOf(linear.parts->front());
  const bool equal = std::all_of(linear.parts->begin(), linear.parts->end(),
                                 [&](const Linear& part) { return SchemeOf(part) == first; });
  return equal ? std::string(SchemeName(first)) : "mixed";
}

void CountValues(std::span<const float> values, InspectedStep* step) {
  step->values.Add(values);
  for (const float value : values) {
    step->nan += std::isnan(value) ? 1 : 0;
    step->infinite += std::isinf(value) ? 1 : 0;
    step->beyond_e4m3 += std::abs(value) > kLargestE4m3 ? 1 : 0;
  }
}

at::Tensor OnHost(const at::Tensor& x) {
  return x.detach().to(at::kCPU, at::kFloat).contiguous();
}

double SumOfSquares(const at::Tensor& x) {
  const double norm = at::linalg_vector_norm(x.to(at::kFloat)).item<double>();
  return norm * norm;
}

Fidelity Compare(const at::Tensor& value, const at::Tensor& reference) {
  return {SumOfSquares(reference), SumOfSquares(value.to(reference.device(), at::kFloat) - reference.to(at::kFloat))};
}

}  // namespace

void ActivationRecorder::Record(size_t step) {
  step_ = last_step_ = step;
  for (auto& [name, known] : known_) known.values.clear();
}

void ActivationRecorder::HandOn(std::string layer, std::function<void(size_t, const at::Tensor&)> take) {
  handed_ = std::move(layer);
  take_ = std::move(take);
}

ActivationRecorder::Known& ActivationRecorder::Meet(const std::string& name, InspectedLayer::Kind kind) {
  const auto [found, fresh] = known_.try_emplace(name);
  if (fresh) {
    found->second.layer = layers_.size();
    InspectedLayer& layer = layers_.emplace_back();
    layer.name = name;
    layer.kind = kind;
    layer.steps.resize(steps_);
  }
  return found->second;
}

// In chunks, since counts add up to the same in any order.
void ActivationRecorder::Count(Known* known, const at::Tensor& value) {
  const at::Tensor host = OnHost(value);
  const float* const data = host.const_data_ptr<float>();
  const int64_t count = host.numel(), chunks = (count + kChunk - 1) / kChunk;
  std::vector<InspectedStep> counted(static_cast<size_t>(chunks));
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t size = std::min(kChunk, count - i * kChunk);
      CountValues({data + i * kChunk, static_cast<size_t>(size)}, &counted[static_cast<size_t>(i)]);
    }
  });
  InspectedStep& step = layers_[known->layer].steps[*step_];
  for (const InspectedStep& chunk : counted) step.Add(chunk);
}

at::Tensor ActivationRecorder::Visit(const Linear& linear, const at::Tensor& x) {
  if (!step_) return {};
  const std::vector<std::string>& names = linear.tap->layers;
  Known& known = Meet(StrCat(kTransformer, names.front()), InspectedLayer::Kind::kLinear);
  InspectedLayer& layer = layers_[known.layer];
  if (!known.linear) {
    known.linear = Untapped(linear);
    known.type = x.scalar_type();
    for (size_t i = 1; i < names.size(); ++i) layer.others.push_back(StrCat(kTransformer, names[i]));
    layer.scheme = SchemeText(linear);
  }
  Count(&known, x);
  if (take_ && layer.name == handed_) take_(*step_, x);
  return {};
}

void ActivationRecorder::Stage(std::string_view name, const at::Tensor& value) {
  if (!step_) return;
  Known& known = Meet(std::string(name), InspectedLayer::Kind::kStage);
  Count(&known, value);
  if (keep_) known.values.push_back(value.clone());
  if (take_ && name == handed_) take_(*step_, value);
}

void ActivationRecorder::StartSaturation(const SaturationCount& counted) {
  before_.clear();
  for (const SaturationCount::Layer& layer : counted.Worst(std::numeric_limits<size_t>::max()))
    before_[layer.name] = layer.activations;
}

void ActivationRecorder::AddSaturation(const SaturationCount& counted) {
  for (const SaturationCount::Layer& layer : counted.Worst(std::numeric_limits<size_t>::max())) {
    Known& known = Meet(layer.name, InspectedLayer::Kind::kOther);
    InspectedStep& step = layers_[known.layer].steps[last_step_];
    const SaturationCount::Activations& before = before_[layer.name];
    step.saturated += layer.activations.saturated - before.saturated;
    step.guarded += layer.activations.guarded - before.guarded;
  }
}

std::vector<InspectedLayer> ActivationRecorder::TakeLayers() {
  known_.clear();
  std::stable_partition(layers_.begin(), layers_.end(),
                        [](const InspectedLayer& layer) { return layer.kind != InspectedLayer::Kind::kOther; });
  return std::move(layers_);
}

InspectedStep* ActivationRecorder::StepOf(std::string_view layer) {
  const auto found = known_.find(layer);
  return found == known_.end() ? nullptr : &layers_[found->second.layer].steps[last_step_];
}

const Linear* ActivationRecorder::LinearOf(std::string_view layer) const {
  const auto found = known_.find(layer);
  return found == known_.end() || !found->second.linear ? nullptr : &*found->second.linear;
}

at::ScalarType ActivationRecorder::TypeOf(std::string_view layer) const {
  const auto found = known_.find(layer);
  return found == known_.end() ? at::kFloat : found->second.type;
}

at::Tensor ActivationRecorder::TakeStage(std::string_view name) {
  const auto found = known_.find(name);
  if (found == known_.end() || found->second.values.empty()) return {};
  const at::Tensor value = found->second.values.front();
  found->second.values.pop_front();
  return value;
}

at::Tensor NoiseRecorder::Visit(const Linear& linear, const at::Tensor& x) {
  if (!on_) return {};
  const std::string name = StrCat(kTransformer, linear.tap->layers.front());
  const Linear* const inspected = inspected_.LinearOf(name);
  InspectedStep* const step = inspected_.StepOf(name);
  if (inspected == nullptr || step == nullptr) return {};
  const at::Tensor exact = Untapped(linear).Tokens(x);
  step->own.Add(Compare(inspected->Tokens(x.to(inspected_.TypeOf(name))), exact));
  return exact;
}

void NoiseRecorder::Stage(std::string_view name, const at::Tensor& value) {
  if (!on_) return;
  const at::Tensor inspected = inspected_.TakeStage(name);
  InspectedStep* const step = inspected_.StepOf(name);
  if (!inspected.defined() || step == nullptr || inspected.sizes() != value.sizes()) return;
  step->through.Add(Compare(inspected, value));
}

std::optional<FeatureMaps> MapsOf(const at::Tensor& value, int64_t height, int64_t width, size_t channels) {
  at::Tensor maps;  // [C, h, w]
  if (value.dim() == 4) {
    maps = OnHost(value[value.size(0) - 1]);
  } else if (value.dim() == 3 && value.size(1) == height * width) {
    maps = OnHost(value[value.size(0) - 1].t().reshape({value.size(2), height, width}));
  } else {
    return std::nullopt;
  }
  const auto count = static_cast<size_t>(maps.size(0)), pixels = static_cast<size_t>(maps.size(1) * maps.size(2));
  const float* const data = maps.const_data_ptr<float>();
  std::vector<float> absmax(count);
  for (size_t channel = 0; channel < count; ++channel) {
    for (const float x : std::span(data + channel * pixels, pixels))
      absmax[channel] = std::max(absmax[channel], std::isnan(x) ? 0 : std::abs(x));
  }
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return absmax[static_cast<size_t>(a)] > absmax[static_cast<size_t>(b)]; });
  order.resize(std::min(order.size(), channels));
  FeatureMaps features;
  features.all_channels = maps.size(0);
  features.height = static_cast<int>(maps.size(1));
  features.width = static_cast<int>(maps.size(2));
  features.channels = order;
  for (const int channel : order) {
    const auto index = static_cast<size_t>(channel);
    features.absmax.push_back(absmax[index]);
    features.maps.emplace_back(data + index * pixels, data + (index + 1) * pixels);
  }
  return features;
}

}  // namespace fresco
