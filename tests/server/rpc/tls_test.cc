// TLS and certificates of clients, with files that change.
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "server/auth/authenticator.h"
#include "server/main/access.h"
#include "server/metrics/metrics.h"
#include "tests/server/rpc/service_fixture.h"
#include "tests/support/certificates.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

class TlsTest : public ServiceTest {
 protected:
  TlsTest() {
    std::string name = (fs::temp_directory_path() / "fresco-tls-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    Install(MakeCertificate(authority_, {}));
    Write("ca.pem", authority_.certificate);
  }
  ~TlsTest() override {
    server_->Shutdown(absl::ZeroDuration());
    fs::remove_all(folder_);
  }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / "partial") << text;
    fs::rename(folder_ / "partial", folder_ / name);
  }
  void Install(const TestCertificate& own) {
    Write("server.key", own.key);
    Write("server.pem", own.certificate);
  }

  void StartWith(ClientCertificates clients, Authenticator* callers = nullptr) {
    Options options;
    config_.tls = {Path("server.pem"), Path("server.key"), clients == ClientCertificates::kNone ? "" : Path("ca.pem"),
                   clients};
    config_.reload_interval = absl::Milliseconds(50);
    const absl::Status read = access_.Start();
    ASSERT_TRUE(read.ok()) << read;
    options.rpc.tls = access_.tls();
    options.callers = callers;
    options.credentials = Trusting(authority_, {});
    Start(options);
  }

  static std::shared_ptr<grpc::ChannelCredentials> Trusting(const TestCertificate& authority,
                                                            const TestCertificate& own) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = authority.certificate;
    options.pem_cert_chain = own.certificate;
    options.pem_private_key = own.key;
    return grpc::SslCredentials(options);
  }

  // Over a connection of its own, whose handshake is not one of before.
  grpc::StatusCode List(const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto channel =
        grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()), credentials, arguments);
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    return v1::ImageGeneration::NewStub(channel)->ListModels(&context, {}, &response).error_code();
  }

  // Of new files: so many at least could not be taken.
  void AwaitRefusals(int count) {
    const std::string series = "fresco_reloads_total{outcome=\"failed\",setting=\"tls\"} ";
    const auto refusals = [&] {
      const std::string text = metrics_.Text();
      const size_t found = text.find(series);
      return found == std::string::npos ? 0 : std::stoi(text.substr(found + series.size()));
    };
    while (refusals() < count) absl::SleepFor(absl::Milliseconds(10));
  }
  // New connections find the certificate of before for longer than gRPC, which looks every second, would have needed to
  // take up another.
  void ExpectUnchanged() {
    for (int i = 0; i < 15; ++i) {
      ASSERT_EQ(List(Trusting(authority_, {})), grpc::StatusCode::OK);
      absl::SleepFor(absl::Milliseconds(100));
    }
  }

  fs::path folder_;
  SystemClock time_;
  ServerConfig config_;
  Metrics metrics_{{"fake"}, "1"};
  const Logger quiet_{{}, &time_, [](std::string_view) {}};
  Access access_{config_, &time_, &quiet_, &metrics_};
  const TestCertificate authority_ = MakeAuthority("ours"), stranger_ = MakeAuthority("another");
};

TEST_F(TlsTest, DrawsOverTls) {
  StartWith(ClientCertificates::kNone);
  EXPECT_TRUE(Generate(Request("a")).status.ok());
  EXPECT_EQ(List(grpc::InsecureChannelCredentials()), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(List(Trusting(stranger_, {})), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, ARequiredCertificateMustBeSignedByTheAuthority) {
  StartWith(ClientCertificates::kRequired);
  EXPECT_EQ(List(Trusting(authority_, MakeCertificate(authority_, {}))), grpc::StatusCode::OK);
  EXPECT_EQ(List(Trusting(authority_, {})), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(List(Trusting(authority_, MakeCertificate(stranger_, {}))), grpc::StatusCode::UNAVAILABLE);
  CertificateWishes ended;
  ended.since = -absl::Hours(2);
  ended.until = -absl::Hours(1);
  EXPECT_EQ(List(Trusting(authority_, MakeCertificate(authority_, ended))), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, ACertificateIsAnIdentity) {
  TokenEntry mesh;
  mesh.name = mesh.tenant = "mesh";
  mesh.certificate = "spiffe://cluster/mesh";
  mesh.scopes.set(static_cast<size_t>(Scope::kGenerate));
  TokenEntry named = mesh;
  named.name = named.tenant = "named";
  named.certificate = "named.example";
  SystemClock clock;
  Authenticator callers({mesh, named}, &clock);
  StartWith(ClientCertificates::kOptional, &callers);
  CertificateWishes wishes;
  wishes.alternative_names = {"URI:spiffe://cluster/mesh"};
  EXPECT_EQ(List(Trusting(authority_, MakeCertificate(authority_, wishes))), grpc::StatusCode::OK);
  wishes.alternative_names = {"URI:spiffe://cluster/other"};
  EXPECT_EQ(List(Trusting(authority_, MakeCertificate(authority_, wishes))), grpc::StatusCode::UNAUTHENTICATED);
  wishes.name = "named.example";
  wishes.alternative_names.clear();
  EXPECT_EQ(List(Trusting(authority_, MakeCertificate(authority_, wishes))), grpc::StatusCode::OK);
  EXPECT_EQ(List(Trusting(authority_, {})), grpc::StatusCode::UNAUTHENTICATED);
  // No call is under way when they go; the lock is for ThreadSanitizer, which sees none of gRPC's own.
  server_->Shutdown(absl::ZeroDuration());
  callers.Replace({});
}

// Signed by another authority, so that a client can tell.
TEST_F(TlsTest, NewCertificatesAreTakenUpAndOldConnectionsGoOn) {
  StartWith(ClientCertificates::kNone);
  EXPECT_TRUE(Generate(Request("a")).status.ok());
  Install(MakeCertificate(stranger_, {}));
  while (List(Trusting(stranger_, {})) != grpc::StatusCode::OK) absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(List(Trusting(authority_, {})), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Generate(Request("b")).status.ok());  // over the connection of before
}

// A key without its certificate, as a tool that is interrupted leaves it.
TEST_F(TlsTest, APairThatDoesNotMatchLeavesTheOneOfBefore) {
  StartWith(ClientCertificates::kNone);
  Write("server.key", MakeCertificate(authority_, {}).key);
  AwaitRefusals(1);
  ExpectUnchanged();
  Install(MakeCertificate(stranger_, {}));
  while (List(Trusting(stranger_, {})) != grpc::StatusCode::OK) absl::SleepFor(absl::Milliseconds(50));
}

TEST_F(TlsTest, WhatIsNoCertificateLeavesTheOneOfBefore) {
  StartWith(ClientCertificates::kNone);
  Write("server.pem", "nothing\n");
  AwaitRefusals(1);
  ExpectUnchanged();
  fs::remove(folder_ / "server.key");
  AwaitRefusals(2);
  ExpectUnchanged();
  Install(MakeCertificate(stranger_, {}));
  while (List(Trusting(stranger_, {})) != grpc::StatusCode::OK) absl::SleepFor(absl::Milliseconds(50));
}

TEST_F(TlsTest, ACertificateThatHasEndedLeavesTheOneOfBefore) {
  StartWith(ClientCertificates::kNone);
  CertificateWishes ended;
  ended.since = -absl::Hours(2);
  ended.until = -absl::Hours(1);
  Install(MakeCertificate(authority_, ended));
  AwaitRefusals(1);
  ExpectUnchanged();
  Install(MakeCertificate(stranger_, {}));
  while (List(Trusting(stranger_, {})) != grpc::StatusCode::OK) absl::SleepFor(absl::Milliseconds(50));
}

TEST_F(TlsTest, AnAuthorityThatIsNoneLeavesTheOneOfBefore) {
  StartWith(ClientCertificates::kRequired);
  Write("ca.pem", "nothing\n");
  AwaitRefusals(1);
  for (int i = 0; i < 15; ++i) {
    ASSERT_EQ(List(Trusting(authority_, MakeCertificate(authority_, {}))), grpc::StatusCode::OK);
    ASSERT_EQ(List(Trusting(authority_, MakeCertificate(stranger_, {}))), grpc::StatusCode::UNAVAILABLE);
    absl::SleepFor(absl::Milliseconds(100));
  }
  Write("ca.pem", stranger_.certificate);
  while (List(Trusting(authority_, MakeCertificate(stranger_, {}))) != grpc::StatusCode::OK)
    absl::SleepFor(absl::Milliseconds(50));
}

}  // namespace
}  // namespace fresco
