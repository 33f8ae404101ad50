// What a calibration begins with: its options checked, what is drawn, and the state that it goes on from.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/engine/calibration_state.h"
#include "pipeline/engine/calibrator.h"
#include "pipeline/engine/image_spec.h"
#include "pipeline/engine/model_source.h"

namespace fresco {

// INVALID_ARGUMENT for what is wrong with them whatever the model is.
absl::Status CheckCalibrationOptions(const CalibrationOptions& options);

// The picture that is drawn of each prompt, without prompt and seed. INVALID_ARGUMENT for one that the model cannot
// draw, and the source's errors.
absl::StatusOr<ImageSpec> CalibrationSpec(const CalibrationOptions& options, const ModelSource& source);

// Where options.state stood, if it is to go on and there is one; else a fresh one. `weights`: the model's digest.
// INVALID_ARGUMENT for the state of a run with another result; else ReadCalibrationState's errors.
absl::StatusOr<CalibrationState> StartingState(const CalibrationOptions& options, const ImageSpec& spec,
                                               const std::string& weights);

}  // namespace fresco
