// What every call that draws has in common, streaming or not: who calls, its way into the scheduler and out of it, the
// caller who takes nothing of what is written to it, and the one line that is logged when it ends.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "server/auth/authenticator.h"
#include "server/rpc/call_record.h"
#include "server/rpc/request_identity.h"
#include "server/rpc/server.h"
#include "server/rpc/shared_requests.h"
#include "server/rpc/trace_context.h"
#include "server/rpc/unread_answers.h"
#include "server/scheduler/event_channel.h"

namespace grpc {
class CallbackServerContext;
}  // namespace grpc

namespace fresco {

class StallWatch;

// The metadata idempotency-key, by which HTTP clients name a request that they may send again, where it is a request's
// name; else empty.
std::string IdempotencyKey(const grpc::CallbackServerContext& context);

// When the caller wants its answer at the latest, by `clock`.
absl::Time DeadlineOf(const grpc::CallbackServerContext& context, const Clock& clock);

// Whether a caller that leaves `now` leaves because of its deadline: its own timer fires a little before `deadline`,
// which is ours.
bool LeftAtDeadline(absl::Time received, absl::Time deadline, absl::Time now);

// Thread-safe once Submit has returned.
class Call {
 public:
  // `method`: for the log. All others outlive it. Goes on with the caller's trace (trace_context.h), and has the caller
  // told of the span that this call is, in the metadata that goes out with what is written first.
  Call(std::string method, const RpcOptions& options, const RpcDependencies& environment,
       grpc::CallbackServerContext* context);

  // Before the request is looked at: who calls, and whether that caller may make one more call now.
  absl::Status Admit();

  // Once it has been admitted: finds the model, has the request validated and hands it to the scheduler; where the
  // model is to be loaded first, that happens once it is, and what comes of it is said in the channel. On success
  // channel() is there, and Detach is due before the call is destroyed. `validate` may be called later, when the call
  // has gone.
  using Validate = std::function<absl::StatusOr<GenerationRequest>(const Engine& engine)>;
  absl::Status Submit(const std::string& model, const Validate& validate);

  // The id that the caller has given, for the log of a call that is refused.
  void SetId(const std::string& id) { id_ = id; }
  // Before Submit, of a request that its caller has named: the call may share it with others (shared_requests.h).
  void SetIdentity(RequestIdentity identity) {
    id_ = identity.id;
    identity_ = std::move(identity);
  }

  EventChannel* channel() const { return channel_.get(); }  // null before Submit has succeeded
  // The channel's next event, which the caller is about to be given.
  std::optional<RequestEvent> Next();
  const std::string& id() const { return id_; }

  // Before the whole answer is made, of these pictures: whether there is room for it until its caller has read it,
  // which is kept to the end of the call.
  absl::Status HoldAnswer(const std::vector<SharedBytes>& pictures);

  // A caller that has taken nothing of a write for slow_reader_limit loses the call with RESOURCE_EXHAUSTED; the
  // reactor hears of it as of one who hangs up, by OnCancel. Before gRPC is given the first message. gRPC does not say
  // how much of a message has been taken, so that the caller of a whole answer, of so many bytes, has the time to take
  // it all at slow_reader_rate on top.
  void WriteStarted(int64_t whole_answer = 0);
  // Before gRPC is given the status of a call that fails; after messages or, when nothing was written yet, alone.
  void Failing();
  void WriteDone();

  // The caller is gone: the request leaves the scheduler at the next step boundary. Returns why.
  absl::Status Abandon();

  // Nobody reads on. When it returns, the channel's callback is not running and will not be called.
  void Detach();

  // Counts and logs the call's end, when gRPC is done with it: only then is it known whether an OK has reached the
  // caller. Call it once.
  void End(absl::Status status);

 private:
  absl::Status SubmitShared(const std::string& model, const Validate& validate);
  absl::Status SubmitOwn(const std::string& model, const Validate& validate);
  absl::Status Await(const Validate& validate, absl::Status not_loaded);
  // Metadata beside a first message are the initial ones. Beside a status without one they are the trailing ones, since
  // with any initial ones gRPC would send the call's beginning by itself; a proxy takes that for an answer that is
  // under way, and can neither try another server nor say HTTP's status for ours.
  bool TellsTrace() { return !std::exchange(trace_told_, true); }
  void OnStall();
  absl::Status WhyGone() const;
  void DescribeRequest(LogFields* fields) const;
  void DescribeTrace(LogFields* fields) const;

  const std::string method_;
  const RpcOptions& options_;
  const RpcDependencies& environment_;
  grpc::CallbackServerContext* const context_;
  const absl::Time received_;
  const TraceContext trace_;
  const std::string peer_;                         // asked for when the call is over, gRPC may have forgotten it
  Caller caller_;                                  // set by Admit
  std::shared_ptr<Authenticator::Permit> permit_;  // likewise; may stay null
  std::string id_, model_;                         // set by Submit
  std::optional<RequestIdentity> identity_;
  std::shared_ptr<CallFacts> facts_;
  std::optional<SharedRequests::Seat> seat_;  // of a request that may be shared
  std::shared_ptr<EventChannel> channel_;
  std::unique_ptr<UnreadAnswers::Hold> answer_;
  CallRecord record_;
  std::shared_ptr<StallWatch> watch_;
  std::atomic<bool> stalled_ = false;
  bool trace_told_ = false;  // whoever writes
};

}  // namespace fresco
