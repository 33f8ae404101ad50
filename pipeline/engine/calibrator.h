// Makes a model's Calibration by drawing prompts. Torch-free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/precision/calibration.h"

namespace fresco {

struct CalibrationOptions {
  std::string model;  // diffusers folder or single file
  std::string base;   // what supplies what it lacks; empty: none
  std::string device = "cpu";
  int threads = 0;  // CPU threads for computing; 0: as many as the machine has
  std::vector<std::string> prompts;
  std::string precision = "fp8";  // that is calibrated: fp8, fp8-weight-only, int8
  std::string high = "fp32";      // that it is measured against: fp32, bf16, fp16
  // What is drawn; unset: the model's default. Prompt i has seed + i.
  std::optional<int> width, height, steps;
  std::optional<float> guidance_scale;
  uint64_t seed = 0;
  size_t buckets = 10;          // of noise levels, at most
  int sensitivity_samples = 8;  // velocities that each layer's sensitivity is measured on; 0: it is not measured
  // So much of the quantised layers' work may keep its inputs high (KeepInputsHigh); needs the sensitivity.
  double high_inputs = 0.2;
  // Velocities whose inputs decide how weights are rounded, and the file for these weights; empty: none are made. They
  // are in `rounded`.new until all else is done.
  int rounding_samples = 128;
  std::string rounded;
  double rounding_damping = 0.3;  // RoundWeight's
  double noise_damping = 0.01;    // AffineFit::Solve's
  // Where the state is kept after each prompt and each layer; empty: nowhere.
  std::string state;
  bool resume = false;  // goes on from `state`, if it is there
};

// Work done and to do, in forwards of the transformer.
struct CalibrationProgress {
  std::string_view phase;  // "ranges", "sensitivity", "rounding", "noise"
  int64_t done = 0;
  int64_t total = 0;
};

struct CalibrationResult {
  Calibration calibration;
  // Of the velocities' noise, root mean square over their own: as quantised, and as corrected (on the prompts that the
  // correction was fitted on).
  double noise = 0;
  double corrected_noise = 0;
};

// INVALID_ARGUMENT for what is wrong with the options, before anything is loaded: no prompts, a size that the model
// cannot draw, a precision that quantises nothing, a state of another run. Then LoadEngine's errors and DATA_LOSS where
// a velocity is not finite. The result is the same, bit for bit, however often it was interrupted and resumed.
absl::StatusOr<CalibrationResult> Calibrate(const CalibrationOptions& options,
                                            const std::function<void(const CalibrationProgress&)>& on_progress);

}  // namespace fresco
