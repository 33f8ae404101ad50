// What a model can be asked for. Torch-free, pure.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/image_spec.h"

namespace fresco {

// INVALID_ARGUMENT with a "field: what is wrong" for every bad field, joined by "; ". `max_clip_skip`: CLIP layers that
// can be left out.
absl::Status CheckSpec(const ModelInfo& info, int max_clip_skip, const ImageSpec& spec);

// Equal for specs of as many tokens, of image and of text each: "262144+256", pixels and T5's tokens.
std::string BatchKeyOf(const ImageSpec& spec);

}  // namespace fresco
