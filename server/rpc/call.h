// What every call that draws has in common, streaming or not: who calls, its way into the scheduler and out of it, the
// caller who takes nothing of what is written to it, and the one line that is logged when it ends.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "server/rpc/server.h"
#include "server/scheduler/event_channel.h"

namespace grpc {
class CallbackServerContext;
}  // namespace grpc

namespace fresco {

class StallWatch;

// Whose call it is: the tenant's name. The one place that would look at a caller's token. There are no tokens: every
// caller is the same tenant, "", and none is refused.
absl::StatusOr<std::string> AuthenticateCaller(const grpc::CallbackServerContext& context);

// When the caller wants its answer at the latest, by `clock`.
absl::Time DeadlineOf(const grpc::CallbackServerContext& context, const Clock& clock);

// Whether a caller that leaves `now` leaves because of its deadline: its own timer fires a little before `deadline`,
// which is ours.
bool LeftAtDeadline(absl::Time received, absl::Time deadline, absl::Time now);

// Thread-safe once Submit has returned.
class Call {
 public:
  // `method`: for the log. All others outlive it.
  Call(std::string method, const RpcOptions& options, const RpcDependencies& environment,
       grpc::CallbackServerContext* context);

  // Authenticates, finds the model, has the request validated and hands it to the scheduler; where the model is to be
  // loaded first, that happens once it is, and what comes of it is said in the channel. On success channel() is there,
  // and Detach is due before the call is destroyed. `validate` may be called later, when the call has gone.
  using Validate = std::function<absl::StatusOr<GenerationRequest>(const Engine& engine)>;
  absl::Status Submit(const std::string& model, const Validate& validate);

  // The id that the caller has given, for the log of a call that is refused.
  void SetId(const std::string& id) { id_ = id; }

  EventChannel* channel() const { return channel_.get(); }  // null before Submit has succeeded
  const std::string& id() const { return id_; }

  // A caller that has taken nothing of a write for slow_reader_limit loses the call with RESOURCE_EXHAUSTED; the
  // reactor hears of it as of one who hangs up, by OnCancel.
  void WriteStarted();
  void WriteDone();

  // The caller is gone: the request leaves the scheduler at the next step boundary. Returns why.
  absl::Status Abandon();

  // Nobody reads on. When it returns, the channel's callback is not running and will not be called.
  void Detach();

  // Counts and logs the call's end, when gRPC is done with it: only then is it known whether an OK has reached the
  // caller. Call it once.
  void End(absl::Status status, const std::optional<CompletedEvent>& completed);

 private:
  // What the log says of a request, once it has been validated. Thread-safe.
  struct Facts;

  absl::Status Await(const std::string& tenant, const Validate& validate, absl::Status not_loaded);
  void OnStall();
  absl::Status WhyGone() const;
  void DescribeRequest(LogFields* fields) const;

  const std::string method_;
  const RpcOptions& options_;
  const RpcDependencies& environment_;
  grpc::CallbackServerContext* const context_;
  const absl::Time received_;
  const std::string peer_;  // asked for when the call is over, gRPC may have forgotten it
  std::string id_, model_;  // set by Submit
  const std::shared_ptr<Facts> facts_;
  std::shared_ptr<EventChannel> channel_;
  std::shared_ptr<StallWatch> watch_;
  std::atomic<bool> stalled_ = false;
};

}  // namespace fresco
