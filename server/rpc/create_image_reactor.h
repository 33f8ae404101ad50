// One CreateImage call.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "server/rpc/server.h"

namespace fresco {

// Submits the request, a CreateImageRequest, and answers with a CreateImageResponse when all its pictures are there.
// The reactor owns itself.
grpc::ServerUnaryReactor* StartCreateImage(const RpcOptions& options, const RpcDependencies& environment,
                                           grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                           grpc::ByteBuffer* response);

}  // namespace fresco
