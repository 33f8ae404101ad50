// What a model is computed in, decided from what its owner asks for, its folder and its calibration; reads no weights.
#pragma once

#include <c10/core/Device.h>

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/precision.h"
#include "pipeline/precision/calibration.h"

namespace fresco {

struct LoadPrecision {
  Precision precision;                     // with its tables' exceptions, static scales and rounded weights
  std::optional<Calibration> calibration;  // of a quantised one, where there is one
};

// The calibration's file: the one asked for, else the one that may lie in the model's folder.
std::string CalibrationPath(const LoadOptions& options);

// Errors: of the folder's fresco.yaml, of the calibration's file, ChoosePrecision's.
absl::StatusOr<LoadPrecision> DecidePrecision(const LoadOptions& options, const ModelSource& source,
                                              const at::Device& device);

}  // namespace fresco
