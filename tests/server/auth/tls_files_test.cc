#include "server/auth/tls_files.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/certificates.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class TlsFilesTest : public ::testing::Test {
 protected:
  TlsFilesTest() {
    std::string name = (fs::temp_directory_path() / "fresco-tls-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    tls_.certificate = Write("server.pem", own_.certificate);
    tls_.key = Write("server.key", own_.key);
    tls_.client_ca = Write("ca.pem", authority_.certificate);
  }
  ~TlsFilesTest() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return (folder_ / name).string();
  }
  std::string Refusal(absl::Time now = absl::Now()) {
    const absl::Status status = ReadTlsFiles(tls_, now).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    return std::string(status.message());
  }

  fs::path folder_;
  const TestCertificate authority_ = MakeAuthority("the authority");
  const TestCertificate own_ = MakeCertificate(authority_, {});
  TlsConfig tls_;
};

TEST_F(TlsFilesTest, SaysWhoseTheyAreAndWhenTheyEnd) {
  const auto files = ReadTlsFiles(tls_, absl::Now());
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(files->described.size(), 2u);
  EXPECT_EQ(files->described[0].setting, "certificate");
  EXPECT_EQ(files->described[0].subject, "CN=localhost");
  EXPECT_GT(files->described[0].not_after, absl::Now() + absl::Hours(23));
  EXPECT_LT(files->described[0].not_after, absl::Now() + absl::Hours(25));
  EXPECT_EQ(files->described[1].setting, "client_ca");
  EXPECT_EQ(files->described[1].subject, "CN=the authority");
  EXPECT_EQ(files->certificate, own_.certificate);
  EXPECT_EQ(files->key, own_.key);
  EXPECT_EQ(files->client_ca, authority_.certificate);
}

// The earliest of a chain.
TEST_F(TlsFilesTest, AChainEndsWithItsFirst) {
  CertificateWishes short_lived;
  short_lived.until = absl::Hours(2);
  Write("server.pem", own_.certificate + MakeCertificate(authority_, short_lived).certificate);
  const auto files = ReadTlsFiles(tls_, absl::Now());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_LT(files->described.front().not_after, absl::Now() + absl::Hours(3));
}

TEST_F(TlsFilesTest, WhatHasEndedOrNotBegunIsRefused) {
  EXPECT_THAT(Refusal(absl::Now() + absl::Hours(25)),
              AllOf(HasSubstr("server.pem: "), HasSubstr("CN=localhost has expired on ")));
  EXPECT_THAT(Refusal(absl::Now() - absl::Hours(2)), HasSubstr("is not valid before "));
}

TEST_F(TlsFilesTest, EachMistakeNamesItsFile) {
  const TestCertificate other = MakeCertificate(authority_, {});
  Write("server.key", other.key);
  EXPECT_THAT(Refusal(),
              AllOf(HasSubstr("server.key: is not the key of the certificate in "), HasSubstr("server.pem")));
  Write("server.key", "no key");
  EXPECT_THAT(Refusal(), HasSubstr("server.key: holds no private key"));
  // Encrypted: there is nobody to ask for the passphrase.
  Write("server.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGjMF4GCSqGSIb3DQEFDTBR\n-----END ENCRYPTED PRIVATE KEY-----\n");
  EXPECT_THAT(Refusal(), HasSubstr("server.key: holds no private key"));
  fs::remove(tls_.key);
  EXPECT_THAT(Refusal(), HasSubstr("server.key: cannot be read"));
  Write("ca.pem", authority_.certificate + "-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n");
  Write("server.key", own_.key);
  EXPECT_THAT(Refusal(), HasSubstr("ca.pem: its certificate 2 is no PEM"));
  Write("server.pem", "");
  EXPECT_THAT(Refusal(), HasSubstr("server.pem: holds no certificate"));
}

}  // namespace
}  // namespace fresco
