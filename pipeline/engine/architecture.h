// Names for the shapes of known transformers.
#pragma once

#include <string>

#include "pipeline/models/mmdit_config.h"

namespace fresco {

// "sd3.5-medium", "sd3.5-large" (Turbo has the same shape), "sd3-medium", or "mmdit 24x1536" (layers x features) where
// none fits.
std::string ArchitectureName(const MmditConfig& config);

}  // namespace fresco
