// The server process: everything wired together from a configuration.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "server/config/config.h"

namespace fresco {

struct ApplicationOptions {
  ServerConfig config;
  std::string version;    // "0.1.0"
  std::string port_file;  // where the ports are written as JSON once both listen; empty: nowhere
};

// EX_TEMPFAIL: whoever supervises the process is to start it anew.
inline constexpr int kRestartExitCode = 75;

// Serves until SIGTERM or SIGINT, then lets what runs finish within the grace period. An error if it cannot listen or
// no model can be loaded. Where a device is lost, and the configuration does not say otherwise, it lets what runs on
// the others finish likewise and ends the process with kRestartExitCode. A second signal ends the process at once, with
// 128 + its number. Call it before making any thread.
absl::Status RunServer(const ApplicationOptions& options);

}  // namespace fresco
