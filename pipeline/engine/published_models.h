// Shapes of the published models, for measuring and planning without their files (docs/facts/sd35.md).
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "pipeline/models/autoencoder.h"
#include "pipeline/models/clip.h"
#include "pipeline/models/mmdit_config.h"
#include "pipeline/models/t5.h"

namespace fresco {

struct PublishedModel {
  MmditConfig transformer;
  ClipConfig clip_l, clip_g;
  T5Config t5;
  AutoencoderConfig vae;
};

// sd3.5-medium, sd3.5-large or sd3.5-large-turbo. INVALID_ARGUMENT for another name.
absl::StatusOr<PublishedModel> FindPublishedModel(std::string_view name);

}  // namespace fresco
