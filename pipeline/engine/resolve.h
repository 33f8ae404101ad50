// What a model's settings come to, before any of its weights is read.
#pragma once

#include <c10/core/Device.h>

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/load_precision.h"
#include "pipeline/engine/model_defaults.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/precision.h"
#include "pipeline/precision/calibration.h"

namespace fresco {

struct ResolvedModel {
  ModelSource source;
  ModelDefaults defaults;
  // With the exceptions of the calibration, the folder and the options, in this order, and the calibration's scales and
  // rounded weights.
  Precision precision;
  std::optional<Calibration> calibration;  // of a quantised precision, where there is one
};

// Opens the files and reads configurations and calibration; `device` only says what it can compute. Errors as
// LoadEngine's of these.
absl::StatusOr<ResolvedModel> ResolveModel(const LoadOptions& options, const at::Device& device);

}  // namespace fresco
