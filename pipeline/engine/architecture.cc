#include "pipeline/engine/architecture.h"

#include "pipeline/base/strings.h"

namespace fresco {

std::string ArchitectureName(const MmditConfig& config) {
  const bool dual = !config.dual_attention_layers.empty();
  if (config.num_layers == 24 && config.dim() == 1536 && dual && config.qk_norm) return "sd3.5-medium";
  if (config.num_layers == 38 && config.dim() == 2432 && !dual && config.qk_norm) return "sd3.5-large";
  if (config.num_layers == 24 && config.dim() == 1536 && !dual && !config.qk_norm) return "sd3-medium";
  return StrCat("mmdit ", config.num_layers, "x", config.dim());
}

}  // namespace fresco
