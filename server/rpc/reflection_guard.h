// Keeps gRPC's reflection service, which is not ours to write, to those who may ask it.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "server/rpc/server.h"

namespace fresco {

// Both outlive what it returns. Calls of other services are left alone.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeReflectionGuard(
    const RpcOptions& options, const RpcDependencies& environment);

}  // namespace fresco
