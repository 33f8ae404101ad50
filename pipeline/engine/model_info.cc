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
ModelInfo InfoOf(const ModelShape& shape) {
  const MmditConfig& transformer = shape.transformer;
  ModelInfo info;
  info.architecture = ArchitectureName(transformer);
  info.size_multiple = static_cast<int>(shape.vae.downscale() * transformer.patch_size);
  info.max_size = static_cast<int>(transformer.pos_embed_max_size) * info.size_multiple;
  const int made_for = static_cast<int>(transformer.sample_size * shape.vae.downscale());
  info.default_width = info.default_height =
      std::clamp(made_for / info.size_multiple * info.size_multiple, info.size_multiple, info.max_size);
  if (!shape.has_t5) info.max_sequence_length_limit = 0;
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

absl::StatusOr<ModelShape> ReadModelShape(const ModelSource& source) {
  ModelShape shape;
  FRESCO_ASSIGN_OR_RETURN(shape.transformer, source.TransformerConfig());
  FRESCO_ASSIGN_OR_RETURN(const std::string vae, source.Find("vae"));
  FRESCO_ASSIGN_OR_RETURN(shape.vae, ReadAutoencoderConfig(vae));
  shape.has_t5 = source.Has("text_encoder_3");
  return shape;
}

absl::StatusOr<ModelInfo> DescribeModel(const LoadOptions& options, const ModelSource& source, const ModelShape& shape,
                                        const Precision& precision) {
  const std::string path = source.DefaultsPath();
  FRESCO_ASSIGN_OR_RETURN(const ModelDefaults defaults, ReadModelDefaults(path));
  ModelInfo info = InfoOf(shape);
  FRESCO_RETURN_IF_ERROR(ApplyDefaults(defaults, path, &info));
  info.name = options.name;
  info.device = options.device;
  info.precision = precision.name;
  info.precision_asked = options.precision;
  if (!precision.note.empty()) info.notes.push_back(precision.note);
  if (!shape.has_t5) info.notes.emplace_back("no T5: its tokens are zeros");
  return info;
}

absl::StatusOr<ModelInfo> DescribeModel(const LoadOptions& options, const ModelSource& source, const ModelParts& parts,
                                        const Precision& precision) {
  const ModelShape shape = {parts.transformer.config(), parts.vae.config(), parts.text.has_t5()};
  FRESCO_ASSIGN_OR_RETURN(ModelInfo info, DescribeModel(options, source, shape, precision));
  info.components = parts.Components(precision);
  // tests/pipeline/models/batch_test.cc. A GPU's libraries choose the order of their sums by the number of rows.
  info.batch_invariant = parts.transformer.placement().device.is_cpu();
  for (std::string& note : parts.Notes(precision)) info.notes.push_back(std::move(note));
  return info;
}

}  // namespace fresco
