#include "server/rpc/create_image_reactor.h"

#include <optional>
#include <utility>
#include <variant>

#include "pipeline/base/mutex.h"
#include "pipeline/base/strings.h"
#include "server/rpc/call.h"
#include "server/rpc/request_validation.h"
#include "server/rpc/status_mapping.h"

namespace fresco {
namespace {

class CreateImageReactor final : public grpc::ServerUnaryReactor {
 public:
  CreateImageReactor(const RpcOptions& options, const RpcDependencies& environment,
                     grpc::CallbackServerContext* context, v1::CreateImageResponse* response)
      : options_(options),
        environment_(environment),
        call_("CreateImage", options, environment, context),
        response_(response) {}

  void Start(const v1::CreateImageRequest& request) {
    format_ = request.output_format().empty() ? "png" : request.output_format();
    const absl::Status status = call_.Submit(request.model(), [&](const Engine& engine) {
      return ValidateCreateImage(request, engine, options_.limits, environment_.random);
    });
    if (!status.ok()) {
      result_ = status;
      Finish(ToGrpcStatus(status));
      return;
    }
    call_.channel()->SetReadyCallback([this] { Drain(); });
  }

  void OnCancel() override {
    if (call_.channel() == nullptr) return;
    bool finish;
    {
      MutexLock lock(&mutex_);
      finish = !std::exchange(finished_, true);
    }
    if (!finish) return;
    result_ = call_.Abandon();
    Finish(ToGrpcStatus(result_));
  }

  void OnDone() override {
    if (call_.channel() != nullptr) {
      call_.channel()->SetReadyCallback({});
      call_.channel()->Close();
    }
    call_.End(result_, completed_);
    delete this;
  }

 private:
  void Drain() {
    bool finish = false;
    {
      MutexLock lock(&mutex_);
      while (!finished_) {
        std::optional<RequestEvent> event = call_.channel()->Next();
        if (!event.has_value()) return;
        finish = finished_ = Take(std::move(*event));
      }
    }
    if (finish) Finish(ToGrpcStatus(result_));
  }

  // Returns whether it was the last one.
  bool Take(RequestEvent event) FRESCO_REQUIRES(mutex_) {
    if (auto* image = std::get_if<ImageEvent>(&event)) AddImage(std::move(*image));
    if (auto* failed = std::get_if<FailedEvent>(&event)) {
      result_ = failed->status;
      response_->Clear();
      return true;
    }
    if (auto* completed = std::get_if<CompletedEvent>(&event)) {
      response_->set_created(static_cast<int32_t>(absl::ToUnixSeconds(environment_.clock->Now())));
      response_->set_output_format(format_);
      completed_ = std::move(*completed);
      return true;
    }
    return false;
  }

  void AddImage(ImageEvent event) FRESCO_REQUIRES(mutex_) {
    // Pictures may be finished in any order, and are answered in theirs.
    while (response_->data_size() <= event.image_index) response_->add_data();
    v1::CreateImageResponse::Datum* datum = response_->mutable_data(event.image_index);
    datum->set_b64_json(std::move(event.image.bytes));
    datum->set_seed(event.provenance.spec.seed);
    response_->set_size(StrCat(event.image.width, "x", event.image.height));
  }

  const RpcOptions& options_;
  const RpcDependencies& environment_;
  Call call_;
  std::string format_;  // set by Start

  Mutex mutex_;
  bool finished_ FRESCO_GUARDED_BY(mutex_) = false;
  v1::CreateImageResponse* const response_ FRESCO_PT_GUARDED_BY(mutex_);
  absl::Status result_;  // these two belong to whoever sets finished_
  std::optional<CompletedEvent> completed_;
};

}  // namespace

grpc::ServerUnaryReactor* StartCreateImage(const RpcOptions& options, const RpcDependencies& environment,
                                           grpc::CallbackServerContext* context, const v1::CreateImageRequest* request,
                                           v1::CreateImageResponse* response) {
  auto* reactor = new CreateImageReactor(options, environment, context, response);
  reactor->Start(*request);
  return reactor;
}

}  // namespace fresco
