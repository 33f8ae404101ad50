// Calls to one Fresco server.
#pragma once

#include <memory>
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
class UnloadModelResponse;
}  // namespace fresco::v1

namespace fresco {

struct ConnectionOptions {
  std::string server = "127.0.0.1:8500";
  std::string token;                                  // sent as a bearer token; empty: none
  absl::Duration wait = absl::ZeroDuration();         // how long from the start to try again while UNAVAILABLE
  absl::Duration timeout = absl::InfiniteDuration();  // of each call
};

// Thread-safe. Errors are the server's, with its details (rpc_status.h).
class Session {
 public:
  // `clock` outlives it. Connects at the first call.
  Session(const ConnectionOptions& options, Clock* clock);
  ~Session();

  // Draws one request; `observer` hears of it on this thread.
  absl::Status Draw(const DrawRequest& request, DrawObserver* observer, DrawSummary* summary);

  absl::Status ListModels(v1::ListModelsResponse* response);
  absl::Status GetStatus(v1::GetStatusResponse* response);
  absl::Status Cancel(const std::string& request_id);
  // Empty `devices`: all of the model's. Returns when the model is there, or gone.
  absl::Status LoadModel(const std::string& model, const std::vector<std::string>& devices,
                         v1::LoadModelResponse* response);
  absl::Status UnloadModel(const std::string& model, const std::vector<std::string>& devices,
                           v1::UnloadModelResponse* response);

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
