#include "server/rpc/server.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include "pipeline/base/mutex.h"
#include "pipeline/base/strings.h"
#include "server/rpc/open_calls.h"
#include "server/rpc/services.h"

namespace fresco {
namespace {

void Configure(const RpcOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(options.max_request_bytes));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams);
  // A second server on the same port is a mistake, not a way to share it.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Connections whose other end has vanished are noticed within 80 s; clients may ping every 10 s, between calls too.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
}

}  // namespace

class RpcServer::Impl {
 public:
  Impl(const RpcOptions& options, const RpcDependencies& dependencies)
      : options_(options),
        environment_(WithOpenCalls(dependencies, &open_calls_)),
        image_generation_(options_, environment_),
        operations_(options_, environment_, [this] { RefreshHealth(); }) {}

  bool Listen() {
    // Both are gRPC's own process-wide switches; switching them on twice is the same as once.
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    Configure(options_, &builder);
    builder.AddListeningPort(options_.address, grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&image_generation_);
    builder.RegisterService(&operations_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) return false;
    RefreshHealth();
    return true;
  }

  void RefreshHealth() {
    MutexLock lock(&health_mutex_);
    if (server_ == nullptr) return;
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    const bool draining = environment_.models->draining();
    bool any_serving = false, any_lost = false;
    for (const ModelStatus& model : environment_.models->List()) {
      const bool serving = !draining && environment_.models->Serves(model.name);
      any_serving = any_serving || serving;
      any_lost = any_lost || model.lost;
      health->SetServingStatus(model.name, serving);
    }
    health->SetServingStatus("", any_serving && !any_lost && !environment_.models->Starting());
  }

  void Shutdown(absl::Duration grace) {
    if (server_ == nullptr) return;
    server_->Shutdown(SystemTimeIn(grace));
    server_->Wait();
  }

  void AwaitCalls(Clock* clock, absl::Time deadline) { open_calls_.AwaitNone(clock, deadline); }

  int port() const { return port_; }

 private:
  static RpcDependencies WithOpenCalls(RpcDependencies dependencies, OpenCalls* open_calls) {
    dependencies.open_calls = open_calls;
    return dependencies;
  }

  const RpcOptions options_;
  OpenCalls open_calls_;
  const RpcDependencies environment_;
  ImageGenerationService image_generation_;
  OperationsService operations_;
  std::unique_ptr<grpc::Server> server_;  // set by Listen
  int port_ = 0;                          // set by Listen
  Mutex health_mutex_;                    // so that the last refresh is of the last state
};

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const RpcOptions& options,
                                                            const RpcDependencies& dependencies) {
  auto impl = std::make_unique<Impl>(options, dependencies);
  if (!impl->Listen()) {
    return absl::UnavailableError(
        StrCat("cannot listen on ", options.address, ": is the port taken, or the host not this machine's?"));
  }
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(impl)));
}

RpcServer::RpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RpcServer::~RpcServer() {
  impl_->Shutdown(absl::ZeroDuration());
}
int RpcServer::port() const {
  return impl_->port();
}
void RpcServer::RefreshHealth() {
  impl_->RefreshHealth();
}
void RpcServer::AwaitCalls(Clock* clock, absl::Time deadline) {
  impl_->AwaitCalls(clock, deadline);
}
void RpcServer::Shutdown(absl::Duration grace) {
  impl_->Shutdown(grace);
}

}  // namespace fresco
