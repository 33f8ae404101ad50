#include "server/rpc/authorize.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/server_context.h>

#include <string>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/tenant.h"
#include "server/rpc/denial_log.h"
#include "server/rpc/excerpt.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/violations.h"

namespace fresco {
namespace {

std::vector<std::string> MetadataOf(const grpc::ServerContextBase& context, const char* name) {
  std::vector<std::string> values;
  const auto [first, last] = context.client_metadata().equal_range(name);
  for (auto it = first; it != last; ++it) values.emplace_back(it->second.data(), it->second.size());
  return values;
}

// Only of a certificate that TLS has verified.
std::vector<std::string> CertificateNames(const grpc::ServerContextBase& context) {
  const std::shared_ptr<const grpc::AuthContext> peer = context.auth_context();
  std::vector<std::string> names;
  if (peer == nullptr || !peer->IsPeerAuthenticated()) return names;
  for (const char* property : {GRPC_X509_SAN_PROPERTY_NAME, GRPC_X509_CN_PROPERTY_NAME}) {
    for (const grpc::string_ref& name : peer->FindPropertyValues(property))
      names.emplace_back(name.data(), name.size());
  }
  return names;
}

absl::StatusOr<Caller> TakeAtTheirWord(const std::vector<std::string>& names) {
  if (names.empty()) return Caller();
  if (names.size() == 1 && IsTenantName(names.front())) return Caller{"", names.front()};
  return InvalidRequest({{kTenantHeader, StrCat("must be one name of ", kTenantNameRule)}});
}

}  // namespace

absl::StatusOr<Caller> Authorize(const grpc::ServerContextBase& context, std::string_view method,
                                 std::optional<Scope> scope, const RpcOptions& options,
                                 const RpcDependencies& environment) {
  Credentials credentials;
  credentials.tenant = MetadataOf(context, kTenantHeader);
  if (environment.callers == nullptr) return options.tenant_header ? TakeAtTheirWord(credentials.tenant) : Caller();
  credentials.authorization = MetadataOf(context, "authorization");
  credentials.certificate = CertificateNames(context);
  absl::StatusOr<Caller> caller = environment.callers->Authenticate(credentials, scope);
  if (!caller.ok()) {
    environment.denials->Add({std::string(method), CodeName(caller.status().code()),
                              std::string(caller.status().message()), std::string(context.peer())});
  }
  return caller;
}

}  // namespace fresco
