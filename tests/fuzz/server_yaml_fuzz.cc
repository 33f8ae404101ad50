// The server's configuration: what is accepted is within the bounds that docs/CONFIGURATION.md and the messages name.
#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "server/config/config.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

template <typename T>
void CheckRange(T value, T min, T max, std::string_view what) {
  Check(value >= min && value <= max, "out of range:", what);
}

// As the engine and the scheduler compare it: "cuda: 1" and "cuda:01" would be devices of their own.
void CheckDevice(std::string_view device) {
  if (device == "cpu" || device == "auto") return;
  Check(device.starts_with("cuda:"), "a device of no kind:", device);
  const std::string_view number = device.substr(5);
  Check(!number.empty() && std::all_of(number.begin(), number.end(), absl::ascii_isdigit) &&
            (number == "0" || number.front() != '0'),
        "a device under another name:", device);
}

void CheckModel(const ModelConfig& model) {
  Check(!model.name.empty() && model.name.size() <= 64 && IsPrintable(model.name), "a model without a name");
  Check(model.path.starts_with('/'), "a model's path is not absolute");
  Check(!model.devices.empty(), "a model without a device");
  std::for_each(model.devices.begin(), model.devices.end(), CheckDevice);
  CheckRange(model.vae.tile_size, 128, 16384, "tile_size");
  Check(model.vae.tile_size % 32 == 0, "a tile of no multiple");
}

void CheckConfig(const ServerConfig& config) {
  Check(CheckAddress(config.address).ok() && CheckMetricsAddress(config.metrics_address).ok(), "an address of no host");
  CheckRange<int64_t>(config.max_request_bytes, 1 << 10, 256 << 20, "max_request_bytes");
  CheckRange(config.max_concurrent_streams, 1, 1'000'000, "max_concurrent_streams");
  CheckRange<int64_t>(config.connections.answer_bytes, 1 << 20, int64_t{1} << 40, "answer_bytes");
  CheckRange(config.connections.max_per_peer, 0, 1'000'000, "max_connections_per_peer");
  CheckRange(config.grace_period, absl::ZeroDuration(), absl::Hours(24), "grace_period");
  CheckRange(config.max_queue, 1, 1'000'000, "max_queue");
  CheckRange(config.max_batch, 1, 1024, "max_batch");
  CheckRange(config.encode_threads, 1, 256, "encode_threads");
  CheckRange(config.preview_share, 0.0, 100.0, "preview_share");
  CheckRange(config.slow_reader_limit, absl::Seconds(1), absl::Hours(24), "slow_reader_limit");
  CheckRange<int64_t>(config.slow_reader_rate, 1 << 10, 1 << 30, "slow_reader_rate");
  CheckRange<int64_t>(config.channel_bytes, 64 << 10, int64_t{4} << 30, "channel_bytes");
  CheckRange(config.limits.max_width, 16, 16384, "max_width");
  CheckRange(config.limits.max_height, 16, 16384, "max_height");
  CheckRange(config.limits.max_steps, 1, 1000, "max_steps");
  CheckRange(config.limits.max_image_count, 1, 1000, "max_image_count");
  CheckRange(config.limits.max_prompt_bytes, 1, 1 << 20, "max_prompt_bytes");
  for (const auto& [tenant, weight] : config.scheduling.tenant_weights) CheckRange(weight, 0.01, 100.0, "weight");
  for (const auto& [device, bytes] : config.memory_budgets) {
    CheckDevice(device);
    CheckRange(bytes, int64_t{1} << 20, int64_t{1} << 50, "memory_budget");
  }
  for (const auto& [device, bytes] : config.device_budgets) {
    CheckDevice(device);
    CheckRange(bytes, int64_t{1} << 20, int64_t{1} << 50, "memory.budget");
  }
  if (config.device_budget != 0) CheckRange(config.device_budget, int64_t{1} << 20, int64_t{1} << 50, "memory.budget");
  std::for_each(config.models.begin(), config.models.end(), CheckModel);
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  static const ScratchFolder folder;
  static const std::string model = folder.Write("model", "");  // for paths that must be there
  const auto config = fresco::ParseConfig(TextOf(data, size), {"server.yaml", folder.path()});
  if (config.ok()) {
    CheckConfig(*config);
  } else {
    CheckError(config.status(), "server.yaml");
  }
  return 0;
}
