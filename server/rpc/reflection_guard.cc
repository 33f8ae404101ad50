#include "server/rpc/reflection_guard.h"

#include <grpc/grpc.h>
#include <grpcpp/server_context.h>

#include <string>
#include <string_view>

#include "server/rpc/authorize.h"

namespace fresco {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;

class Guard final : public Interceptor {
 public:
  Guard(const RpcOptions& options, const RpcDependencies& environment, ServerRpcInfo* call)
      : options_(options), environment_(environment), call_(call) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) Check();
    methods->Proceed();
  }

 private:
  // An interceptor cannot answer; but it can end the call before the service reads what is asked, with a status of its
  // own.
  void Check() {
    const absl::StatusOr<Caller> caller =
        Authorize(*call_->server_context(), "ServerReflectionInfo", Scope::kReflect, options_, environment_);
    if (caller.ok()) return;
    // The service of gRPC's library is a synchronous one.
    auto* const context = static_cast<grpc::ServerContext*>(call_->server_context());
    grpc_call_cancel_with_status(context->c_call(), static_cast<grpc_status_code>(caller.status().code()),
                                 std::string(caller.status().message()).c_str(), nullptr);
  }

  const RpcOptions& options_;
  const RpcDependencies& environment_;
  ServerRpcInfo* const call_;
};

class GuardFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  GuardFactory(const RpcOptions& options, const RpcDependencies& environment)
      : options_(options), environment_(environment) {}

  Interceptor* CreateServerInterceptor(ServerRpcInfo* call) override {
    const bool reflection = std::string_view(call->method()).starts_with("/grpc.reflection.");
    return reflection ? new Guard(options_, environment_, call) : nullptr;
  }

 private:
  const RpcOptions& options_;
  const RpcDependencies& environment_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeReflectionGuard(
    const RpcOptions& options, const RpcDependencies& environment) {
  return std::make_unique<GuardFactory>(options, environment);
}

}  // namespace fresco
