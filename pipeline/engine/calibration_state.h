// How far a calibration has come: what is kept beside its output, so that an interrupted one goes on. Torch-free.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/precision/affine_fit.h"
#include "pipeline/precision/input_statistics.h"

namespace fresco {

// Of linears with one input, under LayerCalibration::names.
struct LayerStatistics {
  std::vector<std::string> names;
  int64_t outputs = 0;
  std::vector<InputStatistics> buckets;  // of noise levels
  ChannelStatistics channels;
};

struct CalibrationState {
  std::string run;  // a digest of all that the results depend on: another run's state is of no use
  int prompts_measured = 0;
  std::vector<LayerStatistics> layers;                          // in the order in which the model computes them
  std::map<std::string, float> sensitivity, input_sensitivity;  // of those measured, by the first name
  int prompts_fitted = 0;
  std::vector<std::vector<AffineFit>> fits;  // [buckets][channels]
};

// As ReadCalibration and WriteCalibration: what is read goes on exactly where the writer stood. INVALID_ARGUMENT also
// for a file that is not as it was written.
absl::StatusOr<CalibrationState> ReadCalibrationState(const std::string& path);
absl::Status WriteCalibrationState(const CalibrationState& state, const std::string& path);

}  // namespace fresco
