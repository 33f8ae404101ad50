// The gRPC server: ImageGeneration, Operations, grpc.health.v1.Health and reflection over a scheduler. This header is
// free of gRPC and protobuf, so that whoever wires it does not pay for them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "server/config/config.h"
#include "server/log/logger.h"
#include "server/rpc/model_registry.h"
#include "server/scheduler/scheduler.h"

namespace fresco {

class Authenticator;
class ContentChecker;
class DenialLog;
class ModelManager;
class OpenCalls;
class SharedRequests;
class StepProfiler;
class UnreadAnswers;
class WaitingRequests;

// What grpc.health.v1.Health calls the process itself, in distinction from models, whose names have no colon: always
// SERVING, also while it loads or drains. For a supervisor that is to start anew what answers no more, and nothing
// else.
inline constexpr std::string_view kLivenessService = "fresco:liveness";

struct RpcOptions {
  std::string address = "127.0.0.1:0";  // port 0: any free one
  std::string version;                  // for GetStatus
  RequestLimits limits;
  ResultsConfig results;
  bool tenant_header = false;  // callers say whose they are (call.h)
  int max_queue = 256;         // the scheduler's, for GetStatus
  int64_t max_request_bytes = 256 << 10;
  int max_concurrent_streams = 1024;
  ConnectionLimits connections;
  // Of files that gRPC may take as they are, at any time (server/auth/tls_folder.h); absent: plaintext.
  std::optional<TlsConfig> tls;
  absl::Duration slow_reader_limit = absl::Seconds(30);  // a client that reads nothing for so long loses its call
  int64_t slow_reader_rate = 256 << 10;  // bytes a second; a whole answer has its size by that beside the limit
  int64_t channel_bytes = 32 << 20;      // the scheduler's, for requests that wait for their model
};

// All outlive the server. The functions are called from many threads.
struct RpcDependencies {
  Scheduler* scheduler = nullptr;
  ModelRegistry* models = nullptr;
  const Logger* logger = nullptr;
  Clock* clock = nullptr;
  std::function<uint64_t()> random;  // 64 bits for seeds and request ids
  // A call has ended: the model that it asked for, and gRPC's name of its code.
  std::function<void(const std::string& model, const std::string& code)> on_call_done;
  OpenCalls* open_calls = nullptr;     // the server's own
  ModelManager* manager = nullptr;     // null: models neither come nor go
  Authenticator* callers = nullptr;    // null: anybody may do anything
  StepProfiler* profiler = nullptr;    // the scheduler's; null: Profile is UNIMPLEMENTED
  ContentChecker* checker = nullptr;   // null: prompts are not checked
  const Logger* audit = nullptr;       // who operated, and who was turned away; null: `logger`
  SharedRequests* shared = nullptr;    // the server's own
  UnreadAnswers* unread = nullptr;     // likewise
  WaitingRequests* waiting = nullptr;  // likewise
  DenialLog* denials = nullptr;        // likewise
  // A call has joined a request that runs; a call has been given what was drawn before: the model. Null: nobody counts.
  std::function<void(const std::string&model)> on_joined, on_result_served;
  // Of pictures held for calls that may come, there are so many bytes now. Null: likewise.
  std::function<void(int64_t bytes)> on_results_held;
  // A connection was ended, whose caller began calls and gave them up without end. Null: likewise.
  std::function<void()> on_connection_ended;
  // What health says is set anew: of the server as a whole, whether it drains, and of each model. May be empty.
  std::function<void(bool serving, bool draining, const std::vector<std::pair<std::string, bool>>& models)> on_health;
};

class RpcServer {
 public:
  // Listens at once. UNAVAILABLE if the address cannot be had.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const RpcOptions& options,
                                                          const RpcDependencies& dependencies);
  // Shutdown(0), unless it has happened.
  ~RpcServer();

  int port() const;

  // Sets every health status to what the registry says now: each model SERVING while it is ready or can be loaded on
  // demand, "" once those of the start have loaded and while one is SERVING and none has lost its devices, nothing
  // while draining. Call it after each change of the registry. Thread-safe.
  void RefreshHealth();

  // Returns when no call that draws is open any more, so that all callers have read what they were drawn, or at
  // `deadline`.
  void AwaitCalls(Clock* clock, absl::Time deadline);

  // Takes no new calls; those that are left after `grace` are cancelled. Returns when all have ended.
  void Shutdown(absl::Duration grace);

 private:
  class Impl;
  explicit RpcServer(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace fresco
