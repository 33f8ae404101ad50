#include "pipeline/engine/load.h"

#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <future>
#include <string_view>
#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/diffusion_engine.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/model_folder.h"
#include "pipeline/engine/model_info.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/engine/precision.h"
#include "pipeline/engine/torch_boundary.h"

namespace fresco {
namespace {

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
  FRESCO_ASSIGN_OR_RETURN(ModelInfo info, DescribeModel(options, parts, precision));
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
