// The lines that a picture is described by in the "parameters" text of AUTOMATIC1111's web UI, which other programs
// read.
#pragma once

#include <string>

#include "pipeline/engine/image_spec.h"

namespace fresco {

// Who drew a picture.
struct Drawer {
  std::string model;
  std::string sampler;
  std::string software;  // "fresco 0.1.0"
};

// The engines' one sampler.
inline constexpr char kSampler[] = "flow-match-euler";

// Prompt, "Negative prompt: …" (both where `prompts`), then "Steps: …, Sampler: …, CFG scale: …, Seed: …, Size: …,
// Model: …, Version: …".
std::string ParametersText(const ImageSpec& spec, const Drawer& drawer, bool prompts);

}  // namespace fresco
