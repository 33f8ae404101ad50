#include "server/rpc/create_image_reactor.h"

#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "fresco/v1/image_generation.pb.h"
#include "pipeline/base/mutex.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "server/rpc/call.h"
#include "server/rpc/request_validation.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/violations.h"
#include "server/rpc/wire_bytes.h"

namespace fresco {
namespace {

class CreateImageReactor final : public grpc::ServerUnaryReactor {
 public:
  CreateImageReactor(const RpcOptions& options, const RpcDependencies& environment,
                     grpc::CallbackServerContext* context, grpc::ByteBuffer* response)
      : options_(options),
        environment_(environment),
        context_(context),
        call_("CreateImage", options, environment, context),
        bytes_(response) {}

  void Start(const grpc::ByteBuffer& bytes) {
    // Without the lock: nobody knows the reactor before the channel has its callback and gRPC has what is returned.
    const absl::Status status = Submit(bytes);
    EventChannel* channel;
    {
      MutexLock lock(&mutex_);  // whoever takes it later sees the call as it is now
      channel = call_.channel();
    }
    if (channel == nullptr) {
      FinishWith(status);
    } else {
      channel->SetReadyCallback([this] { Drain(); });
    }
  }

  void OnCancel() override {
    bool finish;
    {
      MutexLock lock(&mutex_);
      if (call_.channel() == nullptr) return;
      finish = !std::exchange(finished_, true);
    }
    if (finish) FinishWith(call_.Abandon());
  }

  void OnDone() override {
    {
      MutexLock lock(&mutex_);  // to see the call as Start has left it
    }
    call_.Detach();  // waits for Drain, so without the lock
    {
      MutexLock lock(&mutex_);
      call_.End(result_);
    }
    delete this;
  }

 private:
  absl::Status Submit(const grpc::ByteBuffer& bytes) {
    FRESCO_RETURN_IF_ERROR(call_.Admit());
    v1::CreateImageRequest request;
    FRESCO_ASSIGN_OR_RETURN(const std::vector<FieldViolation> bad_texts, ParseRequest(bytes, &request));
    if (request.request_id().empty()) request.set_request_id(IdempotencyKey(*context_));
    if (IsRequestId(request.request_id())) {
      call_.SetId(request.request_id());
      if (bad_texts.empty()) call_.SetIdentity(IdentityOf("CreateImage", request.request_id(), request));
    }
    format_ = request.output_format().empty() ? "png" : request.output_format();
    // Of values: it may be called when the reactor has gone.
    return call_.Submit(
        request.model(), [request, bad_texts, &options = options_, &environment = environment_](const Engine& engine) {
          return WithEarlier(bad_texts, ValidateCreateImage(request, engine, options.limits, environment.random));
        });
  }

  void Drain() {
    if (const std::optional<absl::Status> result = TakeAll(); result.has_value()) FinishWith(*result);
  }

  // The call's result, if it has just come.
  std::optional<absl::Status> TakeAll() {
    MutexLock lock(&mutex_);
    while (!finished_) {
      std::optional<RequestEvent> event = call_.Next();
      if (!event.has_value()) break;
      if (std::optional<absl::Status> result = Take(std::move(*event)); result.has_value()) {
        finished_ = true;
        return result;
      }
    }
    return std::nullopt;
  }

  void FinishWith(const absl::Status& status) {
    {
      MutexLock lock(&mutex_);
      result_ = status;
      if (!status.ok()) call_.Failing();
      call_.WriteStarted(status.ok() ? static_cast<int64_t>(bytes_->Length()) : 0);
    }
    Finish(ToGrpcStatus(status));
  }

  // The call's result, if this is the last event.
  std::optional<absl::Status> Take(RequestEvent event) FRESCO_REQUIRES(mutex_) {
    if (auto* image = std::get_if<ImageEvent>(&event)) AddImage(*image);
    if (auto* failed = std::get_if<FailedEvent>(&event)) {
      return failed->status;
    }
    if (std::holds_alternative<CompletedEvent>(event)) {
      response_.set_created(static_cast<int32_t>(absl::ToUnixSeconds(environment_.clock->WallTime())));
      response_.set_output_format(format_);
      const absl::Status held = call_.HoldAnswer(pictures_);
      if (held.ok()) *bytes_ = ToBytes(response_, pictures_);
      return held;
    }
    return std::nullopt;
  }

  void AddImage(const ImageEvent& event) FRESCO_REQUIRES(mutex_) {
    // Pictures may be finished in any order, and are answered in theirs.
    while (response_.data_size() <= event.image_index) {
      response_.add_data();
      pictures_.emplace_back();
    }
    pictures_[event.image_index] = event.image.bytes;
    response_.mutable_data(event.image_index)->set_seed(event.provenance.spec.seed);
    response_.set_size(StrCat(event.image.width, "x", event.image.height));
  }

  const RpcOptions& options_;
  const RpcDependencies& environment_;
  grpc::CallbackServerContext* const context_;

  Mutex mutex_;
  Call call_;           // set up by Start
  std::string format_;  // set by Start
  bool finished_ FRESCO_GUARDED_BY(mutex_) = false;
  v1::CreateImageResponse response_ FRESCO_GUARDED_BY(mutex_);   // without its pictures
  std::vector<SharedBytes> pictures_ FRESCO_GUARDED_BY(mutex_);  // one for each datum
  grpc::ByteBuffer* const bytes_ FRESCO_PT_GUARDED_BY(mutex_);   // gRPC's: the response, once it is complete
  absl::Status result_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerUnaryReactor* StartCreateImage(const RpcOptions& options, const RpcDependencies& environment,
                                           grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                           grpc::ByteBuffer* response) {
  auto* reactor = new CreateImageReactor(options, environment, context, response);
  reactor->Start(*request);
  return reactor;
}

}  // namespace fresco
