#include "pipeline/engine/load.h"

#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <future>
#include <stop_token>
#include <string>
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

// Hashes a folder's weights on a thread of its own, as long as somebody wants to know.
class Hashing {
 public:
  // `folder` must outlive it.
  explicit Hashing(const ModelFolder& folder)
      : digest_(std::async(std::launch::async,
                           [&folder, stop = stop_.get_token()] { return DigestWeights(folder, 1, stop); })) {}
  ~Hashing() { stop_.request_stop(); }  // and digest_'s destructor waits for it
  Hashing(const Hashing&) = delete;
  Hashing& operator=(const Hashing&) = delete;

  absl::StatusOr<std::string> Result() { return digest_.get(); }

 private:
  std::stop_source stop_;
  std::future<absl::StatusOr<std::string>> digest_;
};

absl::StatusOr<std::unique_ptr<Engine>> Load(const LoadOptions& options) {
  FRESCO_ASSIGN_OR_RETURN(const at::Device device, PrepareDevice(options.device, options.threads));
  FRESCO_ASSIGN_OR_RETURN(const Precision precision, ChoosePrecision(options.precision, device));
  FRESCO_ASSIGN_OR_RETURN(const ModelFolder folder, ModelFolder::Open(options.path, options.base));
  // Hashing reads every file, which the loading must do anyway: side by side they take little longer than one.
  Hashing hashing(folder);
  const c10::OptionalDeviceGuard guard(device);
  const int64_t before = MemoryUseOf(at::kCPU).allocated_bytes;
  FRESCO_ASSIGN_OR_RETURN(ModelParts parts, LoadModelParts(folder, {device, precision.type}));
  const int64_t allocated = MemoryUseOf(at::kCPU).allocated_bytes - before;
  FRESCO_ASSIGN_OR_RETURN(ModelInfo info, DescribeModel(options, parts, precision));
  FRESCO_ASSIGN_OR_RETURN(info.weights_digest, hashing.Result());
  MappedBytes mapped(device.is_cpu() ? std::max<int64_t>(0, WeightBytes(info) - allocated) : 0);
  auto engine = std::make_unique<DiffusionEngine>(std::move(info), std::move(parts), std::move(mapped),
                                                  options.prompt_cache_bytes);
  const absl::Status warm = engine->WarmUp();
  // A picture of NaN: most often the weights hold it, and then which ones is what its owner wants to know.
  if (absl::IsDataLoss(warm)) FRESCO_RETURN_IF_ERROR(CheckWeightsFinite(folder));
  FRESCO_RETURN_IF_ERROR(warm);
  return engine;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(const LoadOptions& options) {
  return CatchTorch(options.path, [&] { return Load(options); });
}

}  // namespace fresco
