// Feature maps as a picture.
#pragma once

#include "absl/status/statusor.h"
#include "pipeline/engine/inspection.h"
#include "pipeline/image/image.h"

namespace fresco {

// Each map a square of the sheet, in reading order: grey is 0, white and black the map's own largest magnitude; red is
// what is NaN or infinite.
absl::StatusOr<Image> FeatureSheet(const FeatureMaps& maps);

}  // namespace fresco
