// One CreateImage call.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "fresco/v1/image_generation.pb.h"
#include "server/rpc/server.h"

namespace fresco {

// Submits the request and answers when all its pictures are there. The reactor owns itself.
grpc::ServerUnaryReactor* StartCreateImage(const RpcOptions& options, const RpcDependencies& environment,
                                           grpc::CallbackServerContext* context, const v1::CreateImageRequest* request,
                                           v1::CreateImageResponse* response);

}  // namespace fresco
