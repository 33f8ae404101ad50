#include "pipeline/engine/calibration_probe.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/reciprocal.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>

#include "pipeline/precision/quantized_weight.h"
#include "pipeline/precision/row_codes.h"

namespace fresco {
namespace {

constexpr int64_t kChunk = 256;  // rows that a thread counts at a time

struct Counted {
  InputStatistics inputs;
  ChannelStatistics channels;
};

Counted Count(const float* rows, int64_t count, size_t channels) {
  Counted counted{{}, ChannelStatistics(channels)};
  counted.inputs.Add({rows, static_cast<size_t>(count) * channels});
  for (int64_t row = 0; row < count; ++row)
    counted.channels.Add({rows + row * static_cast<int64_t>(channels), channels});
  return counted;
}

// x [rows, n], kFloat, contiguous. In chunks that do not depend on the number of threads, added up in their order: the
// sums have the same bits however they are computed.
void CountRows(const at::Tensor& x, size_t bucket, LayerStatistics* layer) {
  const int64_t rows = x.size(0), n = x.size(1), chunks = (rows + kChunk - 1) / kChunk;
  const float* const data = x.const_data_ptr<float>();
  std::vector<Counted> counted(static_cast<size_t>(chunks));
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      counted[static_cast<size_t>(i)] =
          Count(data + i * kChunk * n, std::min(kChunk, rows - i * kChunk), static_cast<size_t>(n));
  });
  for (const Counted& chunk : counted) {
    layer->buckets[bucket].Add(chunk.inputs);
    layer->channels.Add(chunk.channels);
  }
}

std::unique_ptr<const QuantizedLinear> Quantised(const Linear& linear, LinearScheme scheme) {
  return std::make_unique<const QuantizedLinear>(QuantizeWeight(PlainWeight(linear), scheme), linear.bias, scheme);
}

// What the codes of x [B, N, in] stand for, a scale for each token.
at::Tensor RoundTrip(const at::Tensor& x, LinearScheme scheme) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = ScalesByTensors(wide, scheme);
  return CodesByTensors(wide, scale.reciprocal(), scheme).to(at::kFloat).mul_(scale).to(x.scalar_type());
}

}  // namespace

at::Tensor PlainWeight(const Linear& linear) {
  return linear.weight.is_mkldnn() ? linear.weight.to_dense() : linear.weight;
}

void CalibrationProbe::Rest() {
  layers_ = nullptr;
  gathered_ = nullptr;
  quantised_.clear();
  stand_in_.reset();
}

void CalibrationProbe::Measure(std::vector<LayerStatistics>* layers, size_t bucket, size_t buckets) {
  Rest();
  layers_ = layers;
  bucket_ = bucket;
  buckets_ = buckets;
  entry_.clear();
  for (size_t i = 0; i < layers->size(); ++i) entry_[(*layers)[i].names.front()] = i;
}

void CalibrationProbe::Gather(std::set<std::string> layers, std::map<std::string, GatheredLinear>* gathered) {
  Rest();
  wanted_ = std::move(layers);
  gathered_ = gathered;
}

void CalibrationProbe::Quantise(const std::string& layer, LinearScheme scheme) {
  Rest();
  quantised_ = layer;
  scheme_ = scheme;
  inputs_alone_ = false;
}

void CalibrationProbe::QuantiseInputs(const std::string& layer, LinearScheme scheme) {
  Quantise(layer, scheme);
  inputs_alone_ = true;
}

at::Tensor CalibrationProbe::Visit(const Linear& linear, const at::Tensor& x) {
  const std::vector<std::string>& names = linear.tap->layers;
  if (layers_ != nullptr) Count(*linear.tap, x);
  if (gathered_ != nullptr && wanted_.contains(names.front())) {
    const auto entry = gathered_->try_emplace(names.front(), GatheredLinear{linear, InputMoments(x.size(-1))}).first;
    entry->second.moments.Add(x.reshape({-1, x.size(-1)}));
  }
  if (quantised_.empty() || names.front() != quantised_) return {};
  if (inputs_alone_) {
    Linear untapped = linear;
    untapped.tap = nullptr;
    return untapped.Tokens(RoundTrip(x, scheme_));
  }
  if (stand_in_ == nullptr) stand_in_ = Quantised(linear, scheme_);
  return stand_in_->Product(x);
}

void CalibrationProbe::Count(const LinearTap& tap, const at::Tensor& x) {
  const std::vector<std::string>& names = tap.layers;
  const auto [found, fresh] = entry_.try_emplace(names.front(), layers_->size());
  if (fresh) {
    const auto channels = static_cast<size_t>(x.size(-1));
    const int64_t outputs = std::accumulate(tap.outputs.begin(), tap.outputs.end(), int64_t{0});
    layers_->push_back({names, outputs, std::vector<InputStatistics>(buckets_), ChannelStatistics(channels)});
  }
  LayerStatistics& layer = (*layers_)[found->second];
  const at::Tensor rows = x.reshape({-1, x.size(-1)}).to(at::kCPU, at::kFloat).contiguous();
  CountRows(rows, bucket_, &layer);
}

}  // namespace fresco
