#include "pipeline/engine/parameters_text.h"

#include "pipeline/base/strings.h"

namespace fresco {

std::string ParametersText(const ImageSpec& spec, const Drawer& drawer, bool prompts) {
  std::string text;
  if (prompts) {
    text += StrCat(spec.prompt, "\n");
    if (!spec.negative_prompt.empty()) text += StrCat("Negative prompt: ", spec.negative_prompt, "\n");
  }
  text += StrCat("Steps: ", spec.steps, ", Sampler: ", drawer.sampler, ", CFG scale: ", spec.guidance_scale,
                 ", Seed: ", spec.seed, ", Size: ", spec.width, "x", spec.height, ", Model: ", drawer.model,
                 ", Version: ", drawer.software);
  return text;
}

}  // namespace fresco
