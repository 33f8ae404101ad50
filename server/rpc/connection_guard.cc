#include "server/rpc/connection_guard.h"

#include <grpcpp/server_context.h>

#include <string>
#include <string_view>
#include <utility>

namespace fresco {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;

class Guard final : public Interceptor {
 public:
  Guard(std::shared_ptr<Connections> connections, ServerRpcInfo* call)
      : connections_(std::move(connections)), call_(call), peer_(call->server_context()->peer()) {
    connections_->CallBegun(peer_);
  }

  ~Guard() override { connections_->CallGone(peer_); }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_CLOSE))
      connections_->CallOver(peer_, call_->server_context()->IsCancelled());
    methods->Proceed();
  }

 private:
  const std::shared_ptr<Connections> connections_;
  ServerRpcInfo* const call_;
  const std::string peer_;  // asked for when the call is over, gRPC may have forgotten it
};

class GuardFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit GuardFactory(std::shared_ptr<Connections> connections) : connections_(std::move(connections)) {}

  Interceptor* CreateServerInterceptor(ServerRpcInfo* call) override {
    // Of a synchronous service's call, as the reflection's are, it cannot be asked here whether it was cancelled.
    const bool synchronous = std::string_view(call->method()).starts_with("/grpc.reflection.");
    return synchronous ? nullptr : new Guard(connections_, call);
  }

 private:
  const std::shared_ptr<Connections> connections_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeConnectionGuard(
    std::shared_ptr<Connections> connections) {
  return std::make_unique<GuardFactory>(std::move(connections));
}

}  // namespace fresco
