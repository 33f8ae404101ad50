// What a calibration (docs/CALIBRATION.md) brings to a model that is quantised.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/precision/calibration.h"
#include "pipeline/precision/layer_table.h"

namespace fresco {

struct UsedCalibration {
  Calibration values;
  std::string precision;
  std::vector<LayerTable::Rule> rules;  // the schemes that it has for layers
  std::optional<WeightStore> rounded;   // weights of the transformer, rounded for the precision
};

// Of the file `path`; where that is empty, of calibration.json in the source's folder, and nothing where it is not
// there. INVALID_ARGUMENT for rounded weights of another model, as by the digests. Reads all of the source's weights
// where there are rounded ones.
absl::StatusOr<std::optional<UsedCalibration>> FindCalibration(const std::string& path, const ModelSource& source,
                                                               const std::string& precision);

// The transformer's weights with the rounded ones in place of those that `table` has quantised.
WeightStore WithRounded(const UsedCalibration& calibration, const WeightStore& transformer, const LayerTable& table);

// Writes it to `folder`, in which the quantised model is complete, as that model's own: the rounded weights are in the
// model now, and noise corrections for other precisions are not for it.
absl::Status WriteOwnCalibration(const UsedCalibration& calibration, const std::string& folder);

}  // namespace fresco
