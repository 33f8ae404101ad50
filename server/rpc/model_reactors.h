// Operations.LoadModel and UnloadModel: answered when a model has come or gone, which may take minutes.
#pragma once

#include <grpcpp/support/server_callback.h>

#include "fresco/v1/operations.pb.h"
#include "server/rpc/server.h"

namespace fresco {

grpc::ServerUnaryReactor* StartLoadModel(const RpcOptions& options, const RpcDependencies& environment,
                                         const v1::LoadModelRequest& request, v1::LoadModelResponse* response);
grpc::ServerUnaryReactor* StartUnloadModel(const RpcOptions& options, const RpcDependencies& environment,
                                           const v1::UnloadModelRequest& request, v1::UnloadModelResponse* response);

}  // namespace fresco
