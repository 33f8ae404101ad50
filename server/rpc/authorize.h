// Who makes a call, and whether the caller may make it: the one place that looks at tokens, certificates and tenants'
// names.
#pragma once

#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/auth/authenticator.h"
#include "server/rpc/server.h"

namespace grpc {
class ServerContextBase;
}  // namespace grpc

namespace fresco {

// The caller of `method` ("Generate", "LoadModel"; for the audit log, which hears of those who are turned away).
// Without an authenticator everybody may do everything, and is of the tenant that RpcOptions::tenant_header has callers
// say; a name is then a label, of whoever gives it. No scope: whoever is known. Errors are
// Authenticator::Authenticate's.
absl::StatusOr<Caller> Authorize(const grpc::ServerContextBase& context, std::string_view method,
                                 std::optional<Scope> scope, const RpcOptions& options,
                                 const RpcDependencies& environment);

}  // namespace fresco
