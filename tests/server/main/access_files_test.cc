// The files that say who may call, and the one that says who did.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/base/strings.h"
#include "server/main/access.h"
#include "tests/support/certificates.h"
#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

class AccessFilesTest : public ::testing::Test {
 protected:
  AccessFilesTest() {
    std::string name = (fs::temp_directory_path() / "fresco-access-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~AccessFilesTest() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / "partial") << text;
    fs::rename(folder_ / "partial", folder_ / name);
    return Path(name);
  }
  std::string Read(const std::string& path) const {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  // A file of one token.
  static std::string Tokens(const std::string& token) {
    std::string digest;
    for (const unsigned char byte : DigestOf(token)) {
      constexpr char kDigits[] = "0123456789abcdef";
      digest += {kDigits[byte >> 4], kDigits[byte & 15]};
    }
    return StrCat("tokens: [{name: one, sha256: ", digest, "}]\n");
  }
  bool Known(const std::string& token) const {
    Credentials credentials;
    credentials.authorization = {"Bearer " + token};
    return access_.callers()->Authenticate(credentials, std::nullopt).ok();
  }

  // Starts while the file at `path` is being read: `first` is what is read, and `second` what the file is by the end of
  // that.
  void StartAndChange(const std::string& name, const std::string& first, const std::string& second) {
    ASSERT_EQ(mkfifo(Path(name).c_str(), 0600), 0);
    absl::Status started;
    std::thread start([&] { started = access_.Start(); });
    const int pipe = open(Path(name).c_str(), O_WRONLY | O_CLOEXEC);  // returns once it is open for reading too
    Write(name, second);
    EXPECT_EQ(write(pipe, first.data(), first.size()), static_cast<ssize_t>(first.size()));
    close(pipe);
    start.join();
    ASSERT_TRUE(started.ok()) << started;
  }
  // The next look at the files, and all that comes of it.
  void Look() {
    const absl::Time next = clock_.Now() + config_.reload_interval;
    clock_.AwaitWaiter(next);
    clock_.Advance(config_.reload_interval);
    clock_.AwaitWaiter(next + config_.reload_interval);
  }

  fs::path folder_;
  FakeClock clock_{absl::Now()};
  ServerConfig config_;
  Metrics metrics_{{"fake"}, "1"};
  const Logger logger_{{}, &clock_, [](std::string_view) {}};
  Access access_{config_, &clock_, &logger_, &metrics_};
};

TEST_F(AccessFilesTest, TokensThatChangeDuringTheStartAreTakenUp) {
  config_.tokens = Path("tokens.yaml");
  StartAndChange("tokens.yaml", Tokens("old"), Tokens("new"));
  EXPECT_TRUE(Known("old"));
  Look();
  EXPECT_TRUE(Known("new"));
  EXPECT_FALSE(Known("old"));
}

TEST_F(AccessFilesTest, CertificatesThatChangeDuringTheStartAreTakenUp) {
  const TestCertificate one = MakeAuthority("one"), other = MakeAuthority("other");
  const TestCertificate own = MakeCertificate(one, {});
  config_.tls = {Write("server.pem", own.certificate), Write("server.key", own.key), Path("ca.pem"),
                 ClientCertificates::kRequired};
  StartAndChange("ca.pem", one.certificate, other.certificate);
  EXPECT_EQ(Read(access_.tls()->client_ca), one.certificate);
  Look();
  EXPECT_EQ(Read(access_.tls()->client_ca), other.certificate);
}

// The files stay as they are; time goes on.
TEST_F(AccessFilesTest, ACertificateThatIsNotValidYetIsTakenOnceItIs) {
  const TestCertificate authority = MakeAuthority("one");
  const TestCertificate old = MakeCertificate(authority, {});
  CertificateWishes later;
  later.since = absl::Minutes(5);
  const TestCertificate next = MakeCertificate(authority, later);
  config_.reload_interval = absl::Minutes(4);
  config_.tls = {Write("server.pem", old.certificate), Write("server.key", old.key), "", ClientCertificates::kNone};
  const absl::Status started = access_.Start();
  ASSERT_TRUE(started.ok()) << started;
  Write("server.pem", next.certificate);
  Write("server.key", next.key);
  Look();
  EXPECT_EQ(Read(access_.tls()->certificate), old.certificate);
  EXPECT_EQ(Read(access_.tls()->key), old.key);
  Look();
  EXPECT_EQ(Read(access_.tls()->certificate), next.certificate);
  EXPECT_EQ(Read(access_.tls()->key), next.key);
}

}  // namespace
}  // namespace fresco
