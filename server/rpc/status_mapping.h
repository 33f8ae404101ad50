// The one place where an absl::Status becomes a gRPC status.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"

namespace fresco {

// The same code and message. BadRequest (violations.h), RetryAfter (server/scheduler/retry.h) and who holds a device's
// memory (pipeline/engine/memory_shortage.h) travel as google.rpc.Status details (google.rpc.BadRequest, RetryInfo and
// ErrorInfo with the reason OUT_OF_MEMORY), where gRPC's clients expect them.
grpc::Status ToGrpcStatus(const absl::Status& status);

// "OK", "INVALID_ARGUMENT": for logs and metrics.
std::string CodeName(absl::StatusCode code);

}  // namespace fresco
