// Calls to one Fresco server.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/drawing.h"
#include "pipeline/base/clock.h"

namespace fresco::v1 {
class GetStatusResponse;
class ListModelsResponse;
class LoadModelResponse;
class ProfileRequest;
class StepProfile;
class UnloadModelResponse;
}  // namespace fresco::v1

namespace fresco {

// What TLS needs, as PEM.
struct TlsOptions {
  std::string authorities;       // whose word on the server's identity is taken; empty: the system's
  std::string certificate, key;  // the caller's own; empty: it shows none
};

struct ConnectionOptions {
  std::string server = "127.0.0.1:8500";
  std::string token;                                  // sent as a bearer token; empty: none
  std::optional<TlsOptions> tls;                      // absent: plaintext
  std::string tenant;                                 // whose the calls are said to be; empty: nobody's
  absl::Duration wait = absl::ZeroDuration();         // how long from the start to try again while UNAVAILABLE
  absl::Duration timeout = absl::InfiniteDuration();  // of each call
};

// Thread-safe. Errors are the server's, with its details and the call's trace (rpc_status.h). Every call begins a W3C
// trace of its own, which its attempts share, and says so in the metadata traceparent.
class Session {
 public:
  // `clock` outlives it; `random` gives 64 random bits at a time, for traces, and is thread-safe. Connects at the first
  // call.
  Session(const ConnectionOptions& options, Clock* clock, std::function<uint64_t()> random);
  ~Session();

  // Draws one request; `observer` hears of it on this thread.
  absl::Status Draw(const DrawRequest& request, DrawObserver* observer, DrawSummary* summary);

  absl::Status ListModels(v1::ListModelsResponse* response);
  absl::Status GetStatus(v1::GetStatusResponse* response);
  // OK where the server takes requests for the model (empty: for all that it starts with); UNAVAILABLE, also waited for
  // with ConnectionOptions::wait, while it does not. By grpc.health.v1.Health, as load balancers ask.
  absl::Status CheckHealth(const std::string& model);
  absl::Status Cancel(const std::string& request_id);
  // Empty `devices`: all of the model's. Returns when the model is there, or gone.
  absl::Status LoadModel(const std::string& model, const std::vector<std::string>& devices,
                         v1::LoadModelResponse* response);
  absl::Status UnloadModel(const std::string& model, const std::vector<std::string>& devices,
                           v1::UnloadModelResponse* response);
  // Returns when the steps are recorded. `trace` is empty unless it is asked for. DATA_LOSS for an answer that is not
  // whole.
  absl::Status Profile(const v1::ProfileRequest& request, v1::StepProfile* profile, std::string* trace);

  // Ends all calls, those to come too, as CANCELLED: the server hears of it and stops drawing.
  void CancelAll();
  bool cancelled() const;

  // Waits; false if CancelAll was called before the time had passed.
  bool Sleep(absl::Duration duration);

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace fresco
