#include "server/rpc/call.h"

#include <grpc/grpc.h>
#include <grpcpp/server_context.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "pipeline/base/mutex.h"
#include "pipeline/base/status.h"
#include "server/rpc/excerpt.h"
#include "server/rpc/model_manager.h"
#include "server/rpc/open_calls.h"
#include "server/rpc/stall_watch.h"
#include "server/rpc/status_mapping.h"
#include "server/scheduler/request_state.h"

namespace fresco {
namespace {

// Bytes of an error's message that a line holds; it may say back what a caller has sent.
constexpr size_t kMaxLogged = 1000;

constexpr char kStalled[] = "the caller has read nothing for too long";

// The caller's own timer ends the call some time before ours: gRPC rounds a timeout up, by 1 % at most, before it sends
// it, and ours began when it had arrived, which is late where much goes on.
absl::Duration EarlierAtCaller(absl::Duration timeout) {
  return std::max(absl::Milliseconds(250), timeout / 50);
}

}  // namespace

absl::StatusOr<std::string> AuthenticateCaller(const grpc::CallbackServerContext& /*context*/) {
  return std::string();
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

struct Call::Facts {
  void Set(const GenerationRequest& request) {
    MutexLock lock(&mutex);
    first = request.images.front();
    image_count = static_cast<int64_t>(request.images.size());
  }

  Mutex mutex;
  std::optional<ImageSpec> first FRESCO_GUARDED_BY(mutex);  // image, of a valid request
  int64_t image_count FRESCO_GUARDED_BY(mutex) = 0;
};

Call::Call(std::string method, const RpcOptions& options, const RpcDependencies& environment,
           grpc::CallbackServerContext* context)
    : method_(std::move(method)),
      options_(options),
      environment_(environment),
      context_(context),
      received_(environment.clock->Now()),
      peer_(context->peer()),
      facts_(std::make_shared<Facts>()) {
  environment_.open_calls->Enter();
}

absl::Status Call::Submit(const std::string& model, const Validate& validate) {
  model_ = environment_.models->NameOf(model);
  FRESCO_ASSIGN_OR_RETURN(const std::string tenant, AuthenticateCaller(*context_));
  const absl::StatusOr<EngineView> engine = environment_.models->Find(model);
  if (!engine.ok()) return Await(tenant, validate, engine.status());
  FRESCO_ASSIGN_OR_RETURN(GenerationRequest request, validate(**engine));
  request.tenant = tenant;
  request.deadline = DeadlineOf(*context_, *environment_.clock);
  id_ = request.id;
  facts_->Set(request);
  FRESCO_ASSIGN_OR_RETURN(channel_, environment_.scheduler->Submit(std::move(request)));
  watch_ = StallWatch::Start(options_.slow_reader_limit, environment_.clock, [this] { OnStall(); });
  return absl::OkStatus();
}

// The channel comes before the request: the call waits at it as it does for any other.
absl::Status Call::Await(const std::string& tenant, const Validate& validate, absl::Status not_loaded) {
  ModelManager* const manager = environment_.manager;
  if (manager == nullptr || absl::IsNotFound(not_loaded)) return not_loaded;
  const std::string id = id_.empty() ? absl::StrFormat("%016x", environment_.random()) : id_;
  const auto channel = std::make_shared<EventChannel>(options_.channel_bytes);
  channel->Put(QueuedEvent{0, manager->ExpectedLoad(model_)}, environment_.clock->Now());
  const auto submit = [&environment = environment_, facts = facts_, channel, id, tenant, validate, model = model_,
                       deadline = DeadlineOf(*context_, *environment_.clock)]() -> absl::Status {
    if (channel->closed()) return absl::CancelledError("the caller has gone");
    FRESCO_ASSIGN_OR_RETURN(const EngineView engine, environment.models->Find(model));
    FRESCO_ASSIGN_OR_RETURN(GenerationRequest request, validate(*engine));
    request.id = id;
    request.tenant = tenant;
    request.deadline = deadline;
    request.channel = channel;
    facts->Set(request);
    return environment.scheduler->Submit(std::move(request)).status();
  };
  FRESCO_ASSIGN_OR_RETURN(
      const bool waits,
      manager->Await(model_, [submit, channel, clock = environment_.clock](const absl::Status& loaded) {
        const absl::Status status = loaded.ok() ? submit() : CopyForThread(loaded);
        if (!status.ok()) channel->Put(FailedEvent{status}, clock->Now());
      }));
  if (!waits) {
    // It may have come in between.
    const absl::StatusOr<EngineView> engine = environment_.models->Find(model_);
    if (!engine.ok()) return engine.status();
    FRESCO_RETURN_IF_ERROR(submit());
  }
  id_ = id;
  channel_ = channel;
  watch_ = StallWatch::Start(options_.slow_reader_limit, environment_.clock, [this] { OnStall(); });
  return absl::OkStatus();
}

void Call::WriteStarted() {
  if (watch_ != nullptr) watch_->WriteStarted();
}

void Call::WriteDone() {
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
  // By its channel: another request may have its id by now. NOT_FOUND: it has ended by itself, which is as good.
  environment_.scheduler->Cancel(*channel_, reason).IgnoreError();
  return reason;
}

void Call::Detach() {
  if (channel_ == nullptr) return;
  watch_->Stop();
  channel_->SetReadyCallback({});
  channel_->Close();
}

void Call::DescribeRequest(LogFields* fields) const {
  MutexLock lock(&facts_->mutex);
  if (!facts_->first.has_value()) return;
  const ImageSpec& spec = *facts_->first;
  fields->insert(fields->end(), {{"images", facts_->image_count},
                                 {"width", int64_t{spec.width}},
                                 {"height", int64_t{spec.height}},
                                 {"steps", int64_t{spec.steps}},
                                 {"guidance_scale", double{spec.guidance_scale}},
                                 {"seed", spec.seed}});
  if (!environment_.logger->prompts()) return;
  fields->emplace_back("prompt", spec.prompt);
  fields->emplace_back("negative_prompt", spec.negative_prompt);
}

void Call::End(absl::Status status, const std::optional<CompletedEvent>& completed) {
  if (status.ok() && context_->IsCancelled()) status = WhyGone();
  const std::string code = CodeName(status.code());
  environment_.on_call_done(model_, code);
  LogFields fields = {{"id", id_}, {"method", method_}, {"model", Excerpt(model_)}, {"code", code}, {"peer", peer_}};
  if (!status.ok())
    fields.emplace_back("message",
                        Excerpt(std::string_view(status.message().data(), status.message().size()), kMaxLogged));
  DescribeRequest(&fields);
  if (completed.has_value()) {
    const RequestTimings& timings = completed->timings;
    fields.insert(fields.end(), {{"queue_s", absl::ToDoubleSeconds(timings.queue)},
                                 {"prepare_s", absl::ToDoubleSeconds(timings.prepare)},
                                 {"denoise_s", absl::ToDoubleSeconds(timings.denoise)},
                                 {"decode_s", absl::ToDoubleSeconds(timings.decode)},
                                 {"encode_s", absl::ToDoubleSeconds(timings.encode)},
                                 {"batch_mean", completed->batch_size_mean},
                                 {"warnings", static_cast<int64_t>(completed->warnings.size())}});
  }
  fields.emplace_back("total_s", absl::ToDoubleSeconds(environment_.clock->Now() - received_));
  const bool ours = status.code() == absl::StatusCode::kInternal || status.code() == absl::StatusCode::kDataLoss;
  environment_.logger->Log(ours ? LogLevel::kError : LogLevel::kInfo, "request", fields);
  environment_.open_calls->Leave();
}

}  // namespace fresco
