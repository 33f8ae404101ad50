// The server process: everything wired together from a configuration.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/memory_plan.h"
#include "pipeline/engine/recording.h"
#include "server/config/config.h"

namespace fresco {

// Where engines come from: of checkpoints in fresco-server, of nothing in a server that is there to be loaded itself.
// Called from many threads.
struct EngineSource {
  std::function<std::vector<std::string>()> devices;                                // as AvailableDevices
  std::function<absl::StatusOr<std::unique_ptr<Engine>>(const LoadOptions&)> load;  // as LoadEngine
  std::function<absl::StatusOr<int64_t>(const std::string& path, const std::string& base)> stored_bytes;
  // As LeastMemoryNeed; asked where a device has a budget. May be null: nothing is known.
  std::function<absl::StatusOr<MemoryNeed>(const LoadOptions&)> least_memory = nullptr;
  // As SetMemoryLimit; called before anything is loaded, where a device has a limit. May be null: there is none to set.
  std::function<absl::Status(const std::string& device, int64_t bytes)> limit_memory = nullptr;
  ProfilerSource profiler;  // empty: Operations.Profile is UNIMPLEMENTED
};

struct ApplicationOptions {
  ServerConfig config;
  EngineSource engines;
  std::string version;    // "0.1.0"
  std::string port_file;  // where the ports are written as JSON once both listen; empty: nowhere
};

// 64 bits of the machine's randomness, anew each time. Thread-safe.
uint64_t RandomBits();

// EX_TEMPFAIL: whoever supervises the process is to start it anew.
inline constexpr int kRestartExitCode = 75;

// Serves until SIGTERM or SIGINT, then lets what runs finish within the grace period. An error if it cannot listen or
// no model can be loaded. Where a device is lost, and the configuration does not say otherwise, it lets what runs on
// the others finish likewise and ends the process with kRestartExitCode. A second signal ends the process at once, with
// 128 + its number. Call it before making any thread.
absl::Status RunServer(const ApplicationOptions& options);

}  // namespace fresco
