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

// Whether the image's steps must be of it alone.
bool MustBeAlone(const ModelInfo& info, const ImageSpec& spec);

// Equal for specs of as many tokens, of image and of text each, that may share steps: "262144+256", pixels and T5's
// tokens; with " alone" for those that may not share them with any.
std::string BatchKeyOf(const ModelInfo& info, const ImageSpec& spec);

}  // namespace fresco
