// One Generate call.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "server/rpc/server.h"

namespace fresco {

// Submits the request, a GenerateRequest, and streams its GenerateEvents at the client's pace. The reactor owns itself.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerate(const RpcOptions& options, const RpcDependencies& environment,
                                                          grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request);

}  // namespace fresco
