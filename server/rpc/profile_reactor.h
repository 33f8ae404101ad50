// Operations.Profile: answered when enough steps have been recorded, or just before the caller's deadline.
#pragma once

#include <grpcpp/support/server_callback.h>

#include "absl/status/status.h"
#include "fresco/v1/operations.pb.h"
#include "server/rpc/server.h"

namespace fresco {

// `refused`: what the caller is told at once, unless it is OK.
grpc::ServerWriteReactor<v1::ProfileResponse>* StartProfile(const RpcDependencies& environment,
                                                            const grpc::CallbackServerContext& context,
                                                            const v1::ProfileRequest& request,
                                                            const absl::Status& refused);

}  // namespace fresco
