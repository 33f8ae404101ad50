#include "pipeline/engine/calibration_start.h"

#include <filesystem>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/sha256.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/model_info.h"
#include "pipeline/engine/precision.h"
#include "pipeline/engine/spec_check.h"

namespace fresco {
namespace {

constexpr int kMostSamples = 100000;

// Of everything that the result depends on, so that a state is not taken for another run's.
std::string RunDigest(const CalibrationOptions& options, const ImageSpec& spec, const std::string& weights) {
  Sha256 hash;
  hash.Add(StrCat(weights, "\n", options.precision, " ", options.high, " ", spec.width, "x", spec.height, " ",
                  spec.steps, " ", spec.guidance_scale, " ", spec.max_sequence_length, " ", options.seed, " ",
                  options.buckets, " ", options.sensitivity_samples, " ", options.rounding_samples, " ",
                  options.rounding_damping, " ", options.high_inputs, "\n"));
  for (const std::string& prompt : options.prompts) hash.Add(StrCat(prompt.size(), " ", prompt, "\n"));
  return hash.FinishHex();
}

}  // namespace

absl::Status CheckCalibrationOptions(const CalibrationOptions& options) {
  if (options.prompts.empty()) return absl::InvalidArgumentError("there are no prompts to calibrate with");
  if (LayerTable::ForTransformer(options.precision).rules().empty())
    return absl::InvalidArgumentError(
        StrCat("precision '", PrintableName(options.precision), "' quantises nothing that could be calibrated"));
  if (!LayerTable::ForTransformer(options.high).rules().empty())
    return absl::InvalidArgumentError(
        StrCat("precision '", PrintableName(options.high), "' is none to measure against: take fp32, bf16 or fp16"));
  if (options.buckets < 1) return absl::InvalidArgumentError("there must be at least one bucket of noise levels");
  for (const int samples : {options.sensitivity_samples, options.rounding_samples}) {
    if (samples < 0 || samples > kMostSamples)
      return absl::InvalidArgumentError(StrCat(samples, " samples: not from 0 to ", kMostSamples));
  }
  return absl::OkStatus();
}

absl::StatusOr<ImageSpec> CalibrationSpec(const CalibrationOptions& options, const ModelSource& source) {
  FRESCO_ASSIGN_OR_RETURN(const ModelShape shape, ReadModelShape(source));
  LoadOptions described;
  described.path = options.model;
  FRESCO_ASSIGN_OR_RETURN(const ModelInfo info, DescribeModel(described, source, shape, Precision()));
  ImageSpec spec;
  spec.width = options.width.value_or(info.default_width);
  spec.height = options.height.value_or(info.default_height);
  spec.steps = options.steps.value_or(info.default_steps);
  spec.guidance_scale = options.guidance_scale.value_or(info.default_guidance_scale);
  spec.max_sequence_length = info.default_max_sequence_length;
  FRESCO_RETURN_IF_ERROR(CheckSpec(info, /*max_clip_skip=*/0, spec));
  return spec;
}

absl::StatusOr<CalibrationState> StartingState(const CalibrationOptions& options, const ImageSpec& spec,
                                               const std::string& weights) {
  CalibrationState fresh;
  fresh.run = RunDigest(options, spec, weights);
  if (!options.resume || options.state.empty() || !std::filesystem::exists(options.state)) return fresh;
  FRESCO_ASSIGN_OR_RETURN(CalibrationState state, ReadCalibrationState(options.state));
  if (state.run == fresh.run) return state;
  return absl::InvalidArgumentError(StrCat(
      options.state, ": is the state of another run (other weights, prompts or options): start anew without it"));
}

}  // namespace fresco
