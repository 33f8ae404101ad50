// Shapes of the published transformers, for measuring without their weights.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "pipeline/models/mmdit_config.h"

namespace fresco {

// sd3.5-medium, sd3.5-large or sd3.5-large-turbo (docs/facts/sd35.md, "Checkpoints"), with its first `layers` layers
// (0: all), and a position table of `patches` a side. INVALID_ARGUMENT for another name or more layers than there are.
absl::StatusOr<MmditConfig> PresetConfig(std::string_view name, int layers, int patches);

}  // namespace fresco
