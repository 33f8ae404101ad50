#include "server/rpc/call.h"

#include <grpc/grpc.h>
#include <grpcpp/server_context.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "pipeline/base/mutex.h"
#include "pipeline/base/status.h"
#include "server/rpc/authorize.h"
#include "server/rpc/content_checker.h"
#include "server/rpc/excerpt.h"
#include "server/rpc/model_manager.h"
#include "server/rpc/open_calls.h"
#include "server/rpc/request_validation.h"
#include "server/rpc/stall_watch.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/violations.h"
#include "server/rpc/waiting_requests.h"
#include "server/scheduler/guarded.h"
#include "server/scheduler/request_state.h"

namespace fresco {
namespace {

// Bytes of an error's message that a line holds; it may say back what a caller has sent.
constexpr size_t kMaxLogged = 1000;

constexpr char kIdempotencyKey[] = "idempotency-key";
// Of a tracestate, which is the caller's too, what every tracing system must be able to take.
constexpr size_t kMaxTracestate = 512;

constexpr char kStalled[] = "the caller has read nothing for too long";

// The caller's own timer ends the call some time before ours: gRPC rounds a timeout up, by 1 % at most, before it sends
// it, and ours began when it had arrived, which is late where much goes on.
absl::Duration EarlierAtCaller(absl::Duration timeout) {
  return std::max(absl::Milliseconds(250), timeout / 50);
}

using Seat = SharedRequests::Seat;

// Hands a request to the scheduler; where calls share it, until the last of them wants it.
absl::StatusOr<std::shared_ptr<EventChannel>> Enqueue(const RpcDependencies& environment,
                                                      const std::optional<Seat>& seat, GenerationRequest request) {
  if (seat.has_value()) request.deadline = environment.shared->DeadlineOf(*seat);
  FRESCO_ASSIGN_OR_RETURN(std::shared_ptr<EventChannel> channel, environment.scheduler->Submit(std::move(request)));
  if (seat.has_value()) environment.shared->Submitted(*seat);
  return channel;
}

// The same once its texts have been found to be allowed; what comes of that is said in the channel, which is there
// before.
absl::StatusOr<std::shared_ptr<EventChannel>> CheckAndEnqueue(const RpcDependencies& environment,
                                                              const RpcOptions& options,
                                                              const std::optional<Seat>& seat,
                                                              GenerationRequest request) {
  if (environment.checker == nullptr || !environment.checker->checks_prompts())
    return Enqueue(environment, seat, std::move(request));
  if (request.channel == nullptr) request.channel = std::make_shared<EventChannel>(options.channel_bytes);
  const std::shared_ptr<EventChannel> channel = request.channel;
  const std::shared_ptr<WaitingRequests::Entry> entry =
      seat.has_value() ? nullptr : environment.waiting->Add(request.tenant, request.id, channel);
  environment.checker->CheckPrompt(request, [&environment, seat, request, channel, entry](const absl::Status& allowed) {
    if (channel->closed()) return;  // nobody waits for it any more
    const auto enqueue = [&] { return Enqueue(environment, seat, request).status(); };
    const absl::Status status = allowed.ok() ? Guarded("the server", enqueue) : CopyForThread(allowed);
    if (!status.ok()) channel->Put(FailedEvent{status}, environment.clock->Now());
  });
  return channel;
}

TraceContext TraceOf(const grpc::CallbackServerContext& context, const std::function<uint64_t()>& random) {
  const auto values = [&context](const char* name) {
    std::vector<std::string_view> found;
    const auto [first, last] = context.client_metadata().equal_range(name);
    for (auto entry = first; entry != last; ++entry) found.emplace_back(entry->second.data(), entry->second.size());
    return found;
  };
  return ContinueTrace(values(kTraceparentHeader), values(kTracestateHeader), random);
}

}  // namespace

std::string IdempotencyKey(const grpc::CallbackServerContext& context) {
  const auto [first, last] = context.client_metadata().equal_range(kIdempotencyKey);
  if (first == last || std::next(first) != last) return "";
  const std::string key(first->second.data(), first->second.size());
  return IsRequestId(key) ? key : "";
}

absl::Time DeadlineOf(const grpc::CallbackServerContext& context, const Clock& clock) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  // gRPC's "none" is the largest time that the clock can say.
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return clock.Now() + TimeUntil(deadline);
}

bool LeftAtDeadline(absl::Time received, absl::Time deadline, absl::Time now) {
  return now >= deadline - EarlierAtCaller(deadline - received);
}

// What the log says of a request, once it has been validated. Thread-safe.
struct CallFacts {
  void Set(const GenerationRequest& request) {
    MutexLock lock(&mutex);
    first = request.images.front();
    image_count = static_cast<int64_t>(request.images.size());
    priority = PriorityName(request.priority);
  }

  Mutex mutex;
  std::optional<ImageSpec> first FRESCO_GUARDED_BY(mutex);  // image, of a valid request
  int64_t image_count FRESCO_GUARDED_BY(mutex) = 0;
  std::string priority FRESCO_GUARDED_BY(mutex);
};

Call::Call(std::string method, const RpcOptions& options, const RpcDependencies& environment,
           grpc::CallbackServerContext* context)
    : method_(std::move(method)),
      options_(options),
      environment_(environment),
      context_(context),
      received_(environment.clock->Now()),
      trace_(TraceOf(*context, environment.random)),
      peer_(context->peer()),
      facts_(std::make_shared<CallFacts>()),
      record_(received_) {
  environment_.open_calls->Enter();
}

absl::Status Call::Admit() {
  // Before anything is done for it: callers may reset calls faster than they are looked at.
  if (context_->IsCancelled()) return WhyGone();
  FRESCO_ASSIGN_OR_RETURN(caller_, Authorize(*context_, method_, Scope::kGenerate, options_, environment_));
  if (environment_.callers == nullptr) return absl::OkStatus();
  FRESCO_ASSIGN_OR_RETURN(permit_, environment_.callers->Admit(caller_));
  return absl::OkStatus();
}

absl::Status Call::Submit(const std::string& model, const Validate& validate) {
  model_ = environment_.models->NameOf(model);
  const Validate guarded = [validate](const Engine& engine) {
    return Guarded("the engine", [&] { return validate(engine); });
  };
  const bool shared = identity_.has_value() && (!caller_.tenant.empty() || options_.results.anonymous);
  FRESCO_RETURN_IF_ERROR(shared ? SubmitShared(model, guarded) : SubmitOwn(model, guarded));
  watch_ = StallWatch::Start(options_.slow_reader_limit, environment_.clock, [this] { OnStall(); });
  return absl::OkStatus();
}

// Nothing is asked of a call that joins but who it is: what it asks for has been accepted.
absl::Status Call::SubmitShared(const std::string& model, const Validate& validate) {
  SharedRequests* const shared = environment_.shared;
  FRESCO_ASSIGN_OR_RETURN(
      seat_, shared->Enter(caller_.tenant, *identity_, DeadlineOf(*context_, *environment_.clock), facts_));
  facts_ = seat_->facts;
  if (seat_->role == SharedRequests::Role::kFirst) {
    if (const absl::Status status = SubmitOwn(model, validate); !status.ok()) {
      shared->Fail(*seat_, status);
      return status;
    }
  } else {
    // What is kept costs its sending, as often as it is asked for; who joins waits for the drawing first.
    const bool joined = seat_->role == SharedRequests::Role::kJoined;
    if (joined && permit_ != nullptr) permit_->GiveBackRate();
    const auto& count = joined ? environment_.on_joined : environment_.on_result_served;
    if (count != nullptr) count(model_);
  }
  channel_ = seat_->channel;
  return absl::OkStatus();
}

// The request's events come by channel_ or, where it may be shared, by its source.
absl::Status Call::SubmitOwn(const std::string& model, const Validate& validate) {
  const absl::StatusOr<EngineView> engine = environment_.models->Find(model);
  if (!engine.ok()) return Await(validate, engine.status());
  FRESCO_ASSIGN_OR_RETURN(GenerationRequest request, validate(**engine));
  request.tenant = caller_.tenant;
  request.deadline = DeadlineOf(*context_, *environment_.clock);
  if (seat_.has_value()) request.channel = seat_->source;
  id_ = request.id;
  facts_->Set(request);
  const auto channel = CheckAndEnqueue(environment_, options_, seat_, std::move(request));
  if (channel.ok() && !seat_.has_value()) channel_ = *channel;
  return channel.status();
}

// The channel comes before the request: the call waits at it as it does for any other.
absl::Status Call::Await(const Validate& validate, absl::Status not_loaded) {
  ModelManager* const manager = environment_.manager;
  if (manager == nullptr || absl::IsNotFound(not_loaded)) return not_loaded;
  const std::string id = id_.empty() ? absl::StrFormat("%016x", environment_.random()) : id_;
  const auto channel = seat_.has_value() ? seat_->source : std::make_shared<EventChannel>(options_.channel_bytes);
  const std::shared_ptr<WaitingRequests::Entry> entry =
      seat_.has_value() ? nullptr : environment_.waiting->Add(caller_.tenant, id, channel);
  channel->Put(QueuedEvent{0, manager->ExpectedLoad(model_)}, environment_.clock->Now());
  const auto submit = [&environment = environment_, &options = options_, facts = facts_, seat = seat_, channel, entry,
                       id, tenant = caller_.tenant, validate, model = model_,
                       deadline = DeadlineOf(*context_, *environment_.clock)]() -> absl::Status {
    if (channel->closed()) return absl::CancelledError("the caller has gone");
    FRESCO_ASSIGN_OR_RETURN(const EngineView engine, environment.models->Find(model));
    FRESCO_ASSIGN_OR_RETURN(GenerationRequest request, validate(*engine));
    request.id = id;
    request.tenant = tenant;
    request.deadline = deadline;
    request.channel = channel;
    facts->Set(request);
    return CheckAndEnqueue(environment, options, seat, std::move(request)).status();
  };
  FRESCO_ASSIGN_OR_RETURN(const bool waits,
                          manager->Await(
                              model_, [channel] { return !channel->closed(); },
                              [submit, channel, clock = environment_.clock](const absl::Status& loaded) {
                                // Whatever is thrown: nobody else would say anything.
                                const absl::Status status =
                                    loaded.ok() ? Guarded("the server", submit) : CopyForThread(loaded);
                                if (!status.ok()) channel->Put(FailedEvent{status}, clock->Now());
                              }));
  if (!waits) {
    // It may have come in between.
    const absl::StatusOr<EngineView> engine = environment_.models->Find(model_);
    if (!engine.ok()) return engine.status();
    FRESCO_RETURN_IF_ERROR(submit());
  }
  id_ = id;
  if (!seat_.has_value()) channel_ = channel;
  return absl::OkStatus();
}

std::optional<RequestEvent> Call::Next() {
  std::optional<RequestEvent> event = channel_->Next();
  if (event.has_value()) record_.Take(*event, environment_.clock->Now());
  return event;
}

void Call::Failing() {
  if (TellsTrace()) context_->AddTrailingMetadata(kTraceparentHeader, ToString(trace_.own));
}

absl::Status Call::HoldAnswer(const std::vector<SharedBytes>& pictures) {
  FRESCO_ASSIGN_OR_RETURN(answer_, environment_.unread->Take(caller_.tenant, pictures));
  return absl::OkStatus();
}

void Call::WriteStarted(int64_t whole_answer) {
  if (TellsTrace()) context_->AddInitialMetadata(kTraceparentHeader, ToString(trace_.own));
  record_.WriteStarted(environment_.clock->Now());
  if (watch_ != nullptr)
    watch_->WriteStarted(absl::Seconds(1) * (static_cast<double>(whole_answer) / options_.slow_reader_rate));
}

void Call::WriteDone() {
  record_.WriteDone(environment_.clock->Now());
  if (watch_ != nullptr) watch_->WriteDone();
}

void Call::OnStall() {
  stalled_ = true;
  // As TryCancel, which would say CANCELLED. The status overtakes what the caller has not taken.
  grpc_call_cancel_with_status(context_->c_call(), GRPC_STATUS_RESOURCE_EXHAUSTED, kStalled, nullptr);
}

absl::Status Call::WhyGone() const {
  if (stalled_) return absl::ResourceExhaustedError(kStalled);
  const Clock& clock = *environment_.clock;
  if (LeftAtDeadline(received_, DeadlineOf(*context_, clock), clock.Now()))
    return absl::DeadlineExceededError("the caller's deadline has passed");
  return absl::CancelledError("the caller has gone");
}

absl::Status Call::Abandon() {
  const absl::Status reason = WhyGone();
  channel_->Close();
  if (seat_.has_value()) {
    environment_.shared->Leave(*seat_, reason);
  } else {
    // By its channel: another request may have its id by now. NOT_FOUND: it has ended by itself, which is as good.
    environment_.scheduler->Cancel(*channel_, reason).IgnoreError();
  }
  return reason;
}

void Call::Detach() {
  if (channel_ == nullptr) return;
  watch_->Stop();
  channel_->SetReadyCallback({});
  channel_->Close();
  if (seat_.has_value()) environment_.shared->Leave(*seat_, absl::CancelledError("the caller has gone"));
}

void Call::DescribeRequest(LogFields* fields) const {
  MutexLock lock(&facts_->mutex);
  if (!facts_->first.has_value()) return;
  const ImageSpec& spec = *facts_->first;
  fields->insert(fields->end(), {{"priority", facts_->priority},
                                 {"images", facts_->image_count},
                                 {"width", int64_t{spec.width}},
                                 {"height", int64_t{spec.height}},
                                 {"steps", int64_t{spec.steps}},
                                 {"guidance_scale", double{spec.guidance_scale}},
                                 {"seed", spec.seed}});
  if (!environment_.logger->prompts()) return;
  fields->emplace_back("prompt", spec.prompt);
  fields->emplace_back("negative_prompt", spec.negative_prompt);
}

void Call::DescribeTrace(LogFields* fields) const {
  fields->emplace_back("trace_id", trace_.own.trace_id);
  fields->emplace_back("span_id", trace_.own.span_id);
  if (!trace_.parent_span_id.empty()) fields->emplace_back("parent_span_id", trace_.parent_span_id);
  if (!trace_.tracestate.empty()) fields->emplace_back("tracestate", Excerpt(trace_.tracestate, kMaxTracestate));
}

void Call::End(absl::Status status) {
  if (status.ok() && context_->IsCancelled()) status = WhyGone();
  const std::string code = CodeName(status.code());
  environment_.on_call_done(model_, code);
  LogFields fields = {{"id", id_}, {"method", method_}, {"model", Excerpt(model_)}, {"code", code}, {"peer", peer_}};
  if (!caller_.token.empty()) fields.emplace_back("token", caller_.token);
  if (!caller_.tenant.empty()) fields.emplace_back("tenant", caller_.tenant);
  if (!status.ok())
    fields.emplace_back("message",
                        Excerpt(std::string_view(status.message().data(), status.message().size()), kMaxLogged));
  if (seat_.has_value() && seat_->role != SharedRequests::Role::kFirst)
    fields.emplace_back("shared", std::string(seat_->role == SharedRequests::Role::kJoined ? "joined" : "kept"));
  DescribeTrace(&fields);
  DescribeRequest(&fields);
  record_.Describe(environment_.clock->Now(), &fields);
  const bool ours = status.code() == absl::StatusCode::kInternal || status.code() == absl::StatusCode::kDataLoss;
  environment_.logger->Log(ours ? LogLevel::kError : LogLevel::kInfo, "request", fields);
  environment_.open_calls->Leave();
}

}  // namespace fresco
