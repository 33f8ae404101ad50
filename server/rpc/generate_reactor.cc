#include "server/rpc/generate_reactor.h"

#include <optional>
#include <variant>
#include <vector>

#include "fresco/v1/image_generation.pb.h"
#include "pipeline/base/mutex.h"
#include "pipeline/base/status.h"
#include "server/rpc/call.h"
#include "server/rpc/request_validation.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/violations.h"
#include "server/rpc/wire.h"
#include "server/rpc/wire_bytes.h"

namespace fresco {
namespace {

// The scheduler's threads say when there is something to write (channel), gRPC's when something has been written.
// Whoever comes decides under the lock what is next, and does it without.
class GenerateReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  GenerateReactor(const RpcOptions& options, const RpcDependencies& environment, grpc::CallbackServerContext* context)
      : options_(options), environment_(environment), call_("Generate", options, environment, context) {}

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
      channel->SetReadyCallback([this] { Pump(); });
    }
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(&mutex_);
      call_.WriteDone();
      writing_ = false;
      gone_ = gone_ || !ok;
      if (ok) call_.channel()->KeepsReading();
    }
    Pump();
  }

  void OnCancel() override {
    {
      MutexLock lock(&mutex_);
      if (call_.channel() == nullptr) return;
      gone_ = true;
    }
    Pump();
  }

  void OnDone() override {
    {
      MutexLock lock(&mutex_);  // to see the call as Start has left it
    }
    call_.Detach();  // waits for Pump, so without the lock
    {
      MutexLock lock(&mutex_);
      call_.End(result_);
    }
    delete this;
  }

 private:
  absl::Status Submit(const grpc::ByteBuffer& bytes) {
    FRESCO_RETURN_IF_ERROR(call_.Admit());
    v1::GenerateRequest request;
    FRESCO_ASSIGN_OR_RETURN(const std::vector<FieldViolation> bad_texts, ParseRequest(bytes, &request));
    if (IsRequestId(request.request_id())) {
      call_.SetId(request.request_id());
      if (bad_texts.empty()) call_.SetIdentity(IdentityOf("Generate", request.request_id(), request));
    }
    // Of values: it may be called when the reactor has gone.
    return call_.Submit(
        request.model(), [request, bad_texts, &options = options_, &environment = environment_](const Engine& engine) {
          return WithEarlier(bad_texts, ValidateGenerate(request, engine, options.limits, environment.random));
        });
  }

  enum class Action { kNothing, kWrite, kWriteAndFinish, kFinish, kAbandon };

  void Pump() {
    Action action;
    absl::Status failure;
    {
      MutexLock lock(&mutex_);
      action = writing_ || finished_ ? Action::kNothing : Next();
      writing_ = action == Action::kWrite || writing_;
      finished_ = finished_ || (action != Action::kNothing && action != Action::kWrite);
      failure = result_;
      if (action == Action::kWrite || action == Action::kWriteAndFinish) call_.WriteStarted();
    }
    // message_ is left alone from here on, until it is written.
    switch (action) {
      case Action::kNothing:
        break;
      case Action::kWrite:
        bytes_ = ToBytes(message_);
        StartWrite(&bytes_);
        break;
      case Action::kWriteAndFinish:
        bytes_ = ToBytes(message_);
        StartWriteAndFinish(&bytes_, grpc::WriteOptions(), grpc::Status::OK);
        break;
      case Action::kFinish:
        FinishWith(failure);
        break;
      case Action::kAbandon:
        FinishWith(call_.Abandon());
        break;
    }
  }

  Action Next() FRESCO_REQUIRES(mutex_) {
    if (gone_) return Action::kAbandon;
    if (image_.has_value()) return WriteChunk();
    std::optional<RequestEvent> event = call_.Next();
    if (!event.has_value()) return Action::kNothing;
    message_.Clear();
    return std::visit([this](auto& held) FRESCO_REQUIRES(mutex_) { return Take(std::move(held)); }, *event);
  }

  Action Take(QueuedEvent event) FRESCO_REQUIRES(mutex_) {
    SetEvent(event, call_.id(), &message_);
    return Action::kWrite;
  }
  Action Take(const StartedEvent& event) FRESCO_REQUIRES(mutex_) {
    SetEvent(event, &message_);
    return Action::kWrite;
  }
  Action Take(const ProgressEvent& event) FRESCO_REQUIRES(mutex_) {
    SetEvent(event, &message_);
    return Action::kWrite;
  }
  Action Take(ImageEvent event) FRESCO_REQUIRES(mutex_) {
    image_ = std::move(event);
    offset_ = 0;
    return WriteChunk();
  }
  Action Take(const CompletedEvent& event) FRESCO_REQUIRES(mutex_) {
    SetEvent(event, &message_);
    return Action::kWriteAndFinish;
  }
  Action Take(const FailedEvent& event) FRESCO_REQUIRES(mutex_) {
    result_ = event.status;
    return Action::kFinish;
  }

  Action WriteChunk() FRESCO_REQUIRES(mutex_) {
    message_.Clear();
    offset_ = SetChunk(*image_, offset_, &message_);
    if (offset_ == image_->image.bytes.size()) image_.reset();
    return Action::kWrite;
  }

  void FinishWith(const absl::Status& status) {
    {
      MutexLock lock(&mutex_);
      result_ = status;
      call_.Failing();
    }
    Finish(ToGrpcStatus(status));
  }

  const RpcOptions& options_;
  const RpcDependencies& environment_;

  Mutex mutex_;
  Call call_;  // set up by Start
  bool writing_ FRESCO_GUARDED_BY(mutex_) = false;
  bool finished_ FRESCO_GUARDED_BY(mutex_) = false;
  bool gone_ FRESCO_GUARDED_BY(mutex_) = false;                // nobody reads any more
  std::optional<ImageEvent> image_ FRESCO_GUARDED_BY(mutex_);  // being written
  size_t offset_ FRESCO_GUARDED_BY(mutex_) = 0;                // of its next chunk

  absl::Status result_ FRESCO_GUARDED_BY(mutex_);

  // These belong to whoever has set writing_ or finished_, until the bytes are written.
  v1::GenerateEvent message_;
  grpc::ByteBuffer bytes_;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerate(const RpcOptions& options, const RpcDependencies& environment,
                                                          grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request) {
  auto* reactor = new GenerateReactor(options, environment, context);
  reactor->Start(*request);
  return reactor;
}

}  // namespace fresco
