// What each text encoder is given for an image, and what to tell about texts that were cut.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "pipeline/diffusion/prompt_cache.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/image_spec.h"

namespace fresco {

// prompt_2 and prompt_3 default to prompt.
PromptKey PositiveKey(const ImageSpec& spec);

// Likewise; clip_skip is the positive prompt's alone.
PromptKey NegativeKey(const ImageSpec& spec);

// Whether its negative text is used.
inline bool HasNegative(const ImageSpec& spec) {
  return spec.guidance_scale > 1;
}

// Of each in order its positive key and, where it is used, its negative one; those of an image that must be alone are.
std::vector<PromptKey> KeysOf(const ModelInfo& info, absl::Span<const ImageSpec* const> specs);

// One warning per field and kind of encoder. `negative` is null without guidance.
std::vector<Warning> TruncationWarnings(const ImageSpec& spec, const PromptEmbedding& positive,
                                        const PromptEmbedding* negative);

}  // namespace fresco
