// One Generate call.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "fresco/v1/image_generation.pb.h"
#include "server/rpc/server.h"

namespace fresco {

// Submits the request and streams its events at the client's pace. The reactor owns itself.
grpc::ServerWriteReactor<v1::GenerateEvent>* StartGenerate(const RpcOptions& options,
                                                           const RpcDependencies& environment,
                                                           grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request);

}  // namespace fresco
