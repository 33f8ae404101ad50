#include "pipeline/engine/model_info.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/architecture.h"
#include "pipeline/engine/model_defaults.h"

namespace fresco {
namespace {

// Sizes, limits and defaults that follow from the weights.
ModelInfo InfoOf(const ModelParts& parts) {
  const MmditConfig& transformer = parts.transformer.config();
  ModelInfo info;
  info.architecture = ArchitectureName(transformer);
  info.size_multiple = parts.size_multiple();
  info.max_size = static_cast<int>(transformer.pos_embed_max_size) * info.size_multiple;
  const int made_for = static_cast<int>(transformer.sample_size * parts.vae.config().downscale());
  info.default_width = info.default_height =
      std::clamp(made_for / info.size_multiple * info.size_multiple, info.size_multiple, info.max_size);
  if (!parts.text.has_t5()) info.max_sequence_length_limit = 0;
  return info;
}

// The folder's own defaults, which must be possible for this model.
absl::Status ApplyDefaults(const ModelDefaults& defaults, const std::string& path, ModelInfo* info) {
  info->default_steps = defaults.steps.value_or(info->default_steps);
  info->default_guidance_scale = defaults.guidance_scale.value_or(info->default_guidance_scale);
  info->default_width = defaults.width.value_or(info->default_width);
  info->default_height = defaults.height.value_or(info->default_height);
  info->default_max_sequence_length = defaults.max_sequence_length.value_or(info->default_max_sequence_length);
  for (const auto& [key, pixels] :
       {std::pair<std::string_view, int>("width", info->default_width), {"height", info->default_height}}) {
    if (pixels % info->size_multiple != 0 || pixels > info->max_size)
      return absl::InvalidArgumentError(StrCat(path, ": ", key, ": ", pixels, " is not a multiple of ",
                                               info->size_multiple, " up to ", info->max_size));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelInfo> DescribeModel(const LoadOptions& options, const ModelParts& parts,
                                        const Precision& precision) {
  const std::string path = options.path + "/fresco.yaml";
  FRESCO_ASSIGN_OR_RETURN(const ModelDefaults defaults, ReadModelDefaults(path));
  ModelInfo info = InfoOf(parts);
  FRESCO_RETURN_IF_ERROR(ApplyDefaults(defaults, path, &info));
  info.name = options.name;
  info.device = options.device;
  info.precision = precision.name;
  info.components = parts.Components(precision.name);
  if (!precision.reason.empty()) info.notes.push_back(precision.reason);
  if (!parts.text.has_t5()) info.notes.emplace_back("no T5: its tokens are zeros");
  return info;
}

}  // namespace fresco
