// What every call that draws has in common, streaming or not: who calls, its way into the scheduler and out of it, and
// the one line that is logged when it ends.
#pragma once

#include <grpcpp/server_context.h>

#include <memory>
#include <optional>
#include <string>

#include "server/rpc/server.h"
#include "server/scheduler/event_channel.h"

namespace fresco {

// Whose call it is: the tenant's name. The one place where a caller's token is looked at; without tokens all callers
// are the same tenant, "". UNAUTHENTICATED for a token that is not known.
absl::StatusOr<std::string> AuthenticateCaller(const grpc::CallbackServerContext& context);

// When the caller wants its answer at the latest, by `clock`.
absl::Time DeadlineOf(const grpc::CallbackServerContext& context, const Clock& clock);

// Thread-safe once Submit has returned.
class Call {
 public:
  // `method`: for the log. `environment` and `context` outlive it.
  Call(std::string method, const RpcDependencies& environment, grpc::CallbackServerContext* context);

  // Authenticates, finds the model, has the request validated and hands it to the scheduler. On success channel() is
  // there.
  using Validate = std::function<absl::StatusOr<GenerationRequest>(const Engine& engine)>;
  absl::Status Submit(const std::string& model, const Validate& validate);

  // The id that the caller has given, for the log of a call that is refused.
  void SetId(const std::string& id) { id_ = id; }

  EventChannel* channel() const { return channel_.get(); }  // null before Submit has succeeded
  const std::string& id() const { return id_; }

  // The caller is gone: the request leaves the scheduler at the next step boundary. Returns why, for the log.
  absl::Status Abandon();

  // Counts and logs the call's end. Call it once.
  void End(const absl::Status& status, const std::optional<CompletedEvent>& completed);

 private:
  void DescribeRequest(LogFields* fields) const;

  const std::string method_;
  const RpcDependencies& environment_;
  grpc::CallbackServerContext* const context_;
  const absl::Time received_;
  const std::string peer_;          // asked for when the call is over, gRPC may have forgotten it
  std::string id_, model_;          // set by Submit
  std::optional<ImageSpec> first_;  // image, of a valid request
  int64_t image_count_ = 0;
  std::shared_ptr<EventChannel> channel_;
};

}  // namespace fresco
