#include "server/rpc/call.h"

#include <algorithm>

#include "pipeline/base/status.h"
#include "server/rpc/excerpt.h"
#include "server/rpc/open_calls.h"
#include "server/rpc/status_mapping.h"

namespace fresco {

absl::StatusOr<std::string> AuthenticateCaller(const grpc::CallbackServerContext& /*context*/) {
  return std::string();
}

absl::Time DeadlineOf(const grpc::CallbackServerContext& context, const Clock& clock) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  // gRPC's "none" is the largest time that the clock can say.
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return clock.Now() + TimeUntil(deadline);
}

namespace {

// Bytes of an error's message that a line holds; it may say back what a caller has sent.
constexpr size_t kMaxLogged = 1000;

// The caller's own timer ends the call some time before ours: gRPC rounds a timeout up, by 1 % at most, before it sends
// it, and ours began when it had arrived, which is late where much goes on.
absl::Duration EarlierAtCaller(absl::Duration timeout) {
  return std::max(absl::Milliseconds(250), timeout / 50);
}

}  // namespace

Call::Call(std::string method, const RpcDependencies& environment, grpc::CallbackServerContext* context)
    : method_(std::move(method)),
      environment_(environment),
      context_(context),
      received_(environment.clock->Now()),
      peer_(context->peer()) {
  environment_.open_calls->Enter();
}

absl::Status Call::Submit(const std::string& model, const Validate& validate) {
  model_ = environment_.models->NameOf(model);
  FRESCO_ASSIGN_OR_RETURN(const std::string tenant, AuthenticateCaller(*context_));
  FRESCO_ASSIGN_OR_RETURN(const Engine* engine, environment_.models->Find(model));
  model_ = engine->info().name;
  FRESCO_ASSIGN_OR_RETURN(GenerationRequest request, validate(*engine));
  request.tenant = tenant;
  request.deadline = DeadlineOf(*context_, *environment_.clock);
  id_ = request.id;
  first_ = request.images.front();
  image_count_ = static_cast<int64_t>(request.images.size());
  FRESCO_ASSIGN_OR_RETURN(channel_, environment_.scheduler->Submit(std::move(request)));
  return absl::OkStatus();
}

absl::Status Call::Abandon() {
  const absl::Time deadline = DeadlineOf(*context_, *environment_.clock);
  const bool late = environment_.clock->Now() >= deadline - EarlierAtCaller(deadline - received_);
  const absl::Status reason = late ? absl::DeadlineExceededError("the caller's deadline has passed")
                                   : absl::CancelledError("the caller has gone");
  channel_->Close();
  // By its channel: another request may have its id by now. NOT_FOUND: it has ended by itself, which is as good.
  environment_.scheduler->Cancel(*channel_, reason).IgnoreError();
  return reason;
}

void Call::DescribeRequest(LogFields* fields) const {
  if (!first_.has_value()) return;
  const ImageSpec& spec = *first_;
  fields->insert(fields->end(), {{"images", image_count_},
                                 {"width", int64_t{spec.width}},
                                 {"height", int64_t{spec.height}},
                                 {"steps", int64_t{spec.steps}},
                                 {"guidance_scale", double{spec.guidance_scale}},
                                 {"seed", spec.seed}});
  if (!environment_.logger->prompts()) return;
  fields->emplace_back("prompt", spec.prompt);
  fields->emplace_back("negative_prompt", spec.negative_prompt);
}

void Call::End(const absl::Status& status, const std::optional<CompletedEvent>& completed) {
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
