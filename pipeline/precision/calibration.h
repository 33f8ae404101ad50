// What calibration knows of a model: its layers' inputs, how much each layer costs when it is quantised, and how the
// noise of quantisation is taken back. As a file: docs/CALIBRATION.md. Values; torch-free.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "pipeline/precision/layer_table.h"
#include "pipeline/precision/scheme.h"

namespace fresco {

// A partition of the noise levels 0..1, the noisiest first, as an image passes them.
struct SigmaBuckets {
  std::vector<float> upper;  // falling, the first 1, all above 0: bucket i holds the levels in (upper[i + 1], upper[i]]

  size_t size() const { return upper.size(); }
  // The bucket that `sigma` lies in; above 1 the first, 0 and below the last.
  size_t Of(float sigma) const;

  bool operator==(const SigmaBuckets&) const = default;
};

// At most `count` buckets, each of about as many of `sigmas` (falling, as Schedule::sigmas) as the others.
SigmaBuckets BucketsOf(const std::vector<float>& sigmas, size_t count);

// Shares of a layer's inputs, in percent, whose magnitude is at most ActivationRange::percentiles.
inline constexpr std::array<double, 3> kPercentiles = {99, 99.9, 99.99};

// A layer's inputs at the noise levels of one bucket.
struct ActivationRange {
  int64_t count = 0;  // elements seen; where there were none the rest is 0
  float min = 0;
  float max = 0;
  std::array<float, kPercentiles.size()> percentiles{};  // of magnitudes, rounded up by at most 1/32 of themselves

  float absmax() const;

  bool operator==(const ActivationRange&) const = default;
};

// Linears that have one input and are computed as one: q, k and v of an attention, all adaptive norms, or a single one.
struct LayerCalibration {
  std::vector<std::string> names;       // diffusers' ("transformer_blocks.3.attn.to_q"); the first stands for all
  int64_t outputs = 0;                  // of all of them together
  int64_t tokens = 0;                   // seen
  std::vector<ActivationRange> ranges;  // one per bucket
  std::vector<float> channel_absmax;    // [in]: each input channel's largest magnitude, over all buckets
  std::vector<float> channel_mean;      // [in]
  // By precision: |v' - v| / |v| of the velocity when they alone are quantised, and when only their inputs are.
  std::map<std::string, float> sensitivity, input_sensitivity;
  std::map<std::string, LinearScheme> scheme;  // by precision, where it is not the table's

  // The largest magnitude that any bucket has seen.
  float absmax() const;
  // What a static quantisation of the input multiplies its codes by, so that no input seen saturates; nothing for a
  // scheme without quantised inputs and for a layer whose input was always next to 0 (kernels::kSmallestScale) or
  // infinite.
  std::optional<float> InputScale(LinearScheme scheme) const;

  bool operator==(const LayerCalibration&) const = default;
};

// velocity := scale * velocity + offset, for each latent channel.
struct AffineCorrection {
  std::vector<float> scale;   // [channels]
  std::vector<float> offset;  // [channels]

  bool operator==(const AffineCorrection&) const = default;
};
using NoiseCorrection = std::vector<AffineCorrection>;  // one per bucket

struct Calibration {
  std::string model;           // what it was made of, for people
  std::string weights_digest;  // "sha256:…", as ModelInfo::weights_digest
  int prompts = 0;             // and what they were drawn with
  int steps = 0;
  int width = 0;   // pixels
  int height = 0;  // pixels
  float guidance_scale = 0;
  uint64_t seed = 0;
  SigmaBuckets buckets;
  std::vector<LayerCalibration> layers;
  std::map<std::string, NoiseCorrection> noise_correction;  // by precision
  std::map<std::string, std::string> rounded_weights;  // by precision: a file beside the calibration's (Mmdit::Load)

  // The entry that names `layer`, or null.
  const LayerCalibration* Find(std::string_view layer) const;

  bool operator==(const Calibration&) const = default;
};

// Leaves the inputs of some layers high, which costs time but no memory: those whose quantised inputs cost most error
// for their work, as long as they are not more than `share` of all quantised layers' work. `table`: the precision's.
void KeepInputsHigh(std::string_view precision, const LayerTable& table, double share, Calibration* calibration);

// The schemes it has for layers at `precision`, where they are not the table's.
std::vector<LayerTable::Rule> RulesOf(const Calibration& calibration, std::string_view precision);

// The table's layers whose inputs are quantised get the calibration's scales for it.
void SetStaticScales(const Calibration& calibration, LayerTable* table);

}  // namespace fresco
