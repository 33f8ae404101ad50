// Tells Connections of every call that is over.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "server/rpc/connections.h"

namespace fresco {

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeConnectionGuard(
    std::shared_ptr<Connections> connections);

}  // namespace fresco
