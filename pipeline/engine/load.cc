#include "pipeline/engine/load.h"

#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <future>
#include <string_view>
#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/architecture.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/diffusion_engine.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/model_defaults.h"
#include "pipeline/engine/model_folder.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/engine/precision.h"
#include "pipeline/engine/torch_boundary.h"

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

absl::StatusOr<ModelInfo> Describe(const LoadOptions& options, const ModelParts& parts, const Precision& precision) {
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

int64_t WeightBytes(const ModelInfo& info) {
  int64_t bytes = 0;
  for (const auto& component : info.components) bytes += component.weight_bytes;
  return bytes;
}

absl::StatusOr<std::unique_ptr<Engine>> Load(const LoadOptions& options) {
  FRESCO_ASSIGN_OR_RETURN(const at::Device device, PrepareDevice(options.device, options.threads));
  FRESCO_ASSIGN_OR_RETURN(const Precision precision, ChoosePrecision(options.precision, device));
  FRESCO_ASSIGN_OR_RETURN(const ModelFolder folder, ModelFolder::Open(options.path, options.base));
  // Hashing reads every file, which the loading must do anyway: side by side they take little longer than one.
  std::future<absl::StatusOr<std::string>> digest =
      std::async(std::launch::async, [&folder] { return DigestWeights(folder, 1); });
  const c10::OptionalDeviceGuard guard(device);
  const int64_t before = MemoryUseOf(at::kCPU).allocated_bytes;
  FRESCO_ASSIGN_OR_RETURN(ModelParts parts, LoadModelParts(folder, {device, precision.type}));
  const int64_t allocated = MemoryUseOf(at::kCPU).allocated_bytes - before;
  FRESCO_ASSIGN_OR_RETURN(ModelInfo info, Describe(options, parts, precision));
  FRESCO_ASSIGN_OR_RETURN(info.weights_digest, digest.get());
  MappedBytes mapped(device.is_cpu() ? std::max<int64_t>(0, WeightBytes(info) - allocated) : 0);
  auto engine = std::make_unique<DiffusionEngine>(std::move(info), std::move(parts), std::move(mapped),
                                                  options.prompt_cache_bytes);
  FRESCO_RETURN_IF_ERROR(engine->WarmUp());
  return engine;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(const LoadOptions& options) {
  return CatchTorch(options.path, [&] { return Load(options); });
}

}  // namespace fresco
