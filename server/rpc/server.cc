#include "server/rpc/server.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "pipeline/base/mutex.h"
#include "pipeline/base/status.h"
#include "server/rpc/connection_guard.h"
#include "server/rpc/connections.h"
#include "server/rpc/denial_log.h"
#include "server/rpc/listener.h"
#include "server/rpc/open_calls.h"
#include "server/rpc/reflection_guard.h"
#include "server/rpc/services.h"
#include "server/rpc/shared_requests.h"
#include "server/rpc/unread_answers.h"
#include "server/rpc/waiting_requests.h"

namespace fresco {
namespace {

// gRPC's "never" is the largest int.
int ToMilliseconds(absl::Duration duration) {
  return static_cast<int>(std::min<int64_t>(absl::ToInt64Milliseconds(duration), std::numeric_limits<int>::max()));
}

// Each stream of gRPC's own reflection service, which is a synchronous one, has a thread for as long as its caller
// keeps it open; nothing else that is served here has. Beyond these it is refused with RESOURCE_EXHAUSTED. More than
// that are in nobody's use, and what a process may have (systemd's TasksMax, pids_limit) is for all that it does.
constexpr int kReflectionThreads = 32;

void LimitConnections(const RpcOptions& options, grpc::ServerBuilder* builder) {
  const ConnectionLimits& limits = options.connections;
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, ToMilliseconds(limits.handshake_timeout));
  // Connections whose other end has vanished are noticed; clients may ping every 10 s, between calls too.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, ToMilliseconds(limits.keepalive_time));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, ToMilliseconds(limits.keepalive_timeout));
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, ToMilliseconds(limits.idle_timeout));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, ToMilliseconds(limits.max_age));
  grpc::ResourceQuota quota("fresco");
  quota.Resize(static_cast<size_t>(limits.memory_bytes));
  quota.SetMaxThreads(kReflectionThreads);
  builder->SetResourceQuota(quota);
}

void Configure(const RpcOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(options.max_request_bytes));
  // This gRPC holds only what comes over the wire to that size, so that 256 KiB could become 256 MiB. Requests are
  // short, and pictures are compressed.
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  // A second server on the same port is a mistake, not a way to share it.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  LimitConnections(options, builder);
}

grpc_ssl_client_certificate_request_type ToGrpc(ClientCertificates choice) {
  switch (choice) {
    case ClientCertificates::kNone:
      return GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE;
    case ClientCertificates::kOptional:
      return GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY;
    case ClientCertificates::kRequired:
      return GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
  }
  return GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE;
}

// gRPC reads the files anew every second, and takes what it finds.
std::shared_ptr<grpc::ServerCredentials> MakeCredentials(const RpcOptions& options) {
  if (!options.tls.has_value()) return grpc::InsecureServerCredentials();
  const TlsConfig& tls = *options.tls;
  constexpr unsigned kSeconds = 1;
  namespace security = grpc::experimental;
  const auto files =
      std::make_shared<security::FileWatcherCertificateProvider>(tls.key, tls.certificate, tls.client_ca, kSeconds);
  security::TlsServerCredentialsOptions settings(files);
  settings.watch_identity_key_cert_pairs();
  if (!tls.client_ca.empty()) settings.watch_root_certs();
  settings.set_cert_request_type(ToGrpc(tls.client_certificates));
  return security::TlsServerCredentials(settings);
}

std::shared_ptr<SharedRequests> StartShared(const RpcOptions& options, const RpcDependencies& dependencies) {
  SharedRequestsDependencies shared;
  shared.clock = dependencies.clock;
  shared.cancel = [scheduler = dependencies.scheduler](const EventChannel& source, const absl::Status& reason) {
    // NOT_FOUND: it has ended by itself, or waits for its model, and is not taken when that is there.
    scheduler->Cancel(source, reason).IgnoreError();
  };
  shared.extend_deadline = [scheduler = dependencies.scheduler](const EventChannel& source, absl::Time deadline) {
    scheduler->ExtendDeadline(source, deadline).IgnoreError();  // likewise; it is told when it is taken
  };
  shared.on_held = dependencies.on_results_held;
  return SharedRequests::Start({options.results, options.channel_bytes}, shared);
}

}  // namespace

class RpcServer::Impl {
 public:
  Impl(const RpcOptions& options, const RpcDependencies& dependencies)
      : options_(options),
        shared_(StartShared(options, dependencies)),
        denials_(dependencies.audit != nullptr ? dependencies.audit : dependencies.logger, dependencies.clock),
        unread_(options.connections.answer_bytes),
        environment_(WithOwn(dependencies)),
        connections_(std::make_shared<Connections>(options_.connections.max_per_peer, options_.max_concurrent_streams,
                                                   environment_.clock,
                                                   [this](const std::string& peer) { OnConnectionEnded(peer); })),
        image_generation_(options_, environment_),
        operations_(options_, environment_, [this] { RefreshHealth(); }) {}

  ~Impl() { shared_->Stop(); }

  absl::Status Listen() {
    FRESCO_ASSIGN_OR_RETURN(listener_, Listener::Bind(options_.address, options_.connections.keepalive_timeout));
    // Both are gRPC's own process-wide switches; switching them on twice is the same as once.
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    Configure(options_, &builder);
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
    interceptors.push_back(MakeReflectionGuard(options_, environment_));
    interceptors.push_back(MakeConnectionGuard(connections_));
    builder.experimental().SetInterceptorCreators(std::move(interceptors));
    acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, MakeCredentials(options_));
    builder.RegisterService(&image_generation_);
    builder.RegisterService(&operations_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return absl::UnavailableError("gRPC does not start");
    server_->GetHealthCheckService()->SetServingStatus(std::string(kLivenessService), true);
    RefreshHealth();
    listener_->Start([this](int socket) { Take(socket); }, [this](const absl::Status& status) { OnTrouble(status); });
    return absl::OkStatus();
  }

  void RefreshHealth() {
    MutexLock lock(&health_mutex_);
    if (server_ == nullptr) return;
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    const bool draining = environment_.models->draining();
    bool any_serving = false, any_lost = false;
    std::vector<std::pair<std::string, bool>> models;
    for (const ModelStatus& model : environment_.models->List()) {
      const bool serving = !draining && environment_.models->Serves(model.name);
      any_serving = any_serving || serving;
      any_lost = any_lost || model.lost;
      health->SetServingStatus(model.name, serving);
      models.emplace_back(model.name, serving);
    }
    const bool all_serving = any_serving && !any_lost && !environment_.models->Starting();
    if (environment_.on_health) environment_.on_health(all_serving, draining, models);
    health->SetServingStatus("", all_serving);
  }

  void Shutdown(absl::Duration grace) {
    if (server_ == nullptr) return;
    listener_->Stop();  // gRPC would leave open what it is given from now on
    server_->Shutdown(SystemTimeIn(grace));
    server_->Wait();
    shared_->Stop();
    denials_.Stop();
  }

  void AwaitCalls(Clock* clock, absl::Time deadline) { open_calls_.AwaitNone(clock, deadline); }

  int port() const { return listener_->port(); }

 private:
  void Take(int socket) {
    if (!connections_->Add(socket)) {
      close(socket);
      return;
    }
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.fd = socket;
    acceptor_->HandleNewConnection(&connection);
  }

  void OnConnectionEnded(const std::string& peer) {
    environment_.logger->Log(
        LogLevel::kWarning, "connection_ended",
        {{"peer", peer}, {"message", std::string("its caller begins calls and gives them up without end")}});
    if (environment_.on_connection_ended != nullptr) environment_.on_connection_ended();
  }

  void OnTrouble(const absl::Status& status) {
    if (status.ok()) {
      environment_.logger->Log(LogLevel::kInfo, "connections_accepted_again", {});
    } else {
      environment_.logger->Log(LogLevel::kWarning, "connections_not_accepted",
                               {{"message", std::string(status.message())}});
    }
  }

  RpcDependencies WithOwn(RpcDependencies dependencies) {
    dependencies.open_calls = &open_calls_;
    dependencies.shared = shared_.get();
    dependencies.unread = &unread_;
    dependencies.waiting = waiting_.get();
    dependencies.denials = &denials_;
    if (dependencies.audit == nullptr) dependencies.audit = dependencies.logger;
    return dependencies;
  }

  const RpcOptions options_;
  OpenCalls open_calls_;
  const std::shared_ptr<SharedRequests> shared_;
  DenialLog denials_;
  UnreadAnswers unread_;
  const std::shared_ptr<WaitingRequests> waiting_ = std::make_shared<WaitingRequests>();
  const RpcDependencies environment_;
  const std::shared_ptr<Connections> connections_;
  ImageGenerationService image_generation_;
  OperationsService operations_;
  // Set by Listen.
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
  Mutex health_mutex_;  // so that the last refresh is of the last state
};

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const RpcOptions& options,
                                                            const RpcDependencies& dependencies) {
  auto impl = std::make_unique<Impl>(options, dependencies);
  FRESCO_RETURN_IF_ERROR(impl->Listen());
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(impl)));
}

RpcServer::RpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RpcServer::~RpcServer() {
  impl_->Shutdown(absl::ZeroDuration());
}
int RpcServer::port() const {
  return impl_->port();
}
void RpcServer::RefreshHealth() {
  impl_->RefreshHealth();
}
void RpcServer::AwaitCalls(Clock* clock, absl::Time deadline) {
  impl_->AwaitCalls(clock, deadline);
}
void RpcServer::Shutdown(absl::Duration grace) {
  impl_->Shutdown(grace);
}

}  // namespace fresco
