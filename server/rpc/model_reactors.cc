#include "server/rpc/model_reactors.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/mutex.h"
#include "server/rpc/model_manager.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/wire.h"

namespace fresco {
namespace {

// Finishes once: when the work is done, or when the caller leaves, who need not wait for the work (nor the server's
// end).
class ModelReactor final : public grpc::ServerUnaryReactor {
 public:
  // What the work's end is told to; it may outlive the reactor.
  class Call {
   public:
    explicit Call(ModelReactor* reactor) : reactor_(reactor) {}
    // `fill` writes the response, and is not called where nobody waits for it.
    void Finish(const absl::Status& status, const std::function<void()>& fill) {
      // Under the lock, so that the caller's leaving waits; gRPC does not call back from within Finish.
      MutexLock lock(&mutex_);
      ModelReactor* const reactor = std::exchange(reactor_, nullptr);
      if (reactor == nullptr) return;
      if (status.ok()) fill();
      reactor->Finish(ToGrpcStatus(status));
    }

   private:
    Mutex mutex_;
    ModelReactor* reactor_ FRESCO_GUARDED_BY(mutex_);  // null: it has finished
  };

  std::shared_ptr<Call> call() {
    MutexLock lock(&mutex_);  // whoever takes it later sees the reactor as it is now
    return call_;
  }

  void OnCancel() override {
    const std::shared_ptr<Call> own = call();  // outlives the reactor
    own->Finish(absl::CancelledError("the caller has gone"), [] {});
  }
  void OnDone() override {
    { MutexLock lock(&mutex_); }
    delete this;
  }

 private:
  Mutex mutex_;
  const std::shared_ptr<Call> call_ FRESCO_GUARDED_BY(mutex_) = std::make_shared<Call>(this);
};

template <typename Names>
std::vector<std::string> ToVector(const Names& names) {
  return {names.begin(), names.end()};
}

absl::Status Unmanaged() {
  return absl::UnimplementedError("this server's models stay as they are");
}

}  // namespace

grpc::ServerUnaryReactor* StartLoadModel(const RpcOptions& options, const RpcDependencies& environment,
                                         const v1::LoadModelRequest& request, v1::LoadModelResponse* response) {
  auto* reactor = new ModelReactor();
  const std::shared_ptr<ModelReactor::Call> call = reactor->call();
  if (environment.manager == nullptr) {
    call->Finish(Unmanaged(), [] {});
    return reactor;
  }
  environment.manager->Load(request.model(), ToVector(request.devices()),
                            [call, response, &options, &environment,
                             model = request.model()](const absl::StatusOr<ModelManager::Loaded>& loaded) {
                              call->Finish(loaded.status(), [&] {
                                SetModel(environment.models->Describe(model), options.limits,
                                         response->mutable_model());
                                for (const std::string& evicted : loaded->evicted) response->add_evicted(evicted);
                              });
                            });
  return reactor;
}

grpc::ServerUnaryReactor* StartUnloadModel(const RpcOptions& options, const RpcDependencies& environment,
                                           const v1::UnloadModelRequest& request, v1::UnloadModelResponse* response) {
  auto* reactor = new ModelReactor();
  const std::shared_ptr<ModelReactor::Call> call = reactor->call();
  if (environment.manager == nullptr) {
    call->Finish(Unmanaged(), [] {});
    return reactor;
  }
  environment.manager->Unload(
      request.model(), ToVector(request.devices()),
      [call, response, &options, &environment, model = request.model()](const absl::Status& status) {
        call->Finish(status,
                     [&] { SetModel(environment.models->Describe(model), options.limits, response->mutable_model()); });
      });
  return reactor;
}

}  // namespace fresco
