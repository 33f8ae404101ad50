#include "server/auth/tls_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>

#include "gtest/gtest.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

class TlsFolderTest : public ::testing::Test {
 protected:
  TlsFolderTest() {
    std::string name = (fs::temp_directory_path() / "fresco-folder-XXXXXX").string();
    parent_ = mkdtemp(name.data());
    folder_ = *TlsFolder::Make(parent_.string());
  }
  ~TlsFolderTest() override {
    folder_.reset();
    fs::remove_all(parent_);
  }

  absl::Status Put(const std::string& which) {
    return folder_->Put({"certificate " + which, "key " + which, "ca " + which, {}});
  }
  TlsConfig Settings() const { return folder_->Settings({"/etc/c.pem", "/etc/k.pem", "/etc/ca.pem"}); }
  static std::string Text(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  static struct stat About(const std::string& path) {
    struct stat about = {};
    EXPECT_EQ(stat(path.c_str(), &about), 0) << path;
    return about;
  }
  std::vector<std::string> Folders() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(parent_)) found.push_back(entry.path().string());
    return found;
  }

  fs::path parent_;
  std::unique_ptr<TlsFolder> folder_;
};

TEST_F(TlsFolderTest, TheSettingsLeadToWhatWasPutLast) {
  const TlsConfig settings = Settings();  // the same all the time: gRPC is told once
  for (const std::string& which : {std::string("one"), std::string("two"), std::string("three")}) {
    ASSERT_TRUE(Put(which).ok());
    EXPECT_EQ(Text(settings.certificate), "certificate " + which);
    EXPECT_EQ(Text(settings.key), "key " + which);
    EXPECT_EQ(Text(settings.client_ca), "ca " + which);
  }
  EXPECT_EQ(folder_->Settings({"/etc/c.pem", "/etc/k.pem", ""}).client_ca, "");
}

TEST_F(TlsFolderTest, NobodyElseMayLook) {
  ASSERT_TRUE(Put("one").ok());
  EXPECT_EQ(About(Folders().at(0)).st_mode & 07777, 0700u);
  EXPECT_EQ(About(Settings().key).st_mode & 07777, 0600u);
}

// By which gRPC sees that it has begun to read one pair and has ended in another, however fast they come.
TEST_F(TlsFolderTest, NoTwoPutsHaveTheSameTimes) {
  ASSERT_TRUE(Put("one").ok());
  for (int i = 0; i < 5; ++i) {
    const time_t key = About(Settings().key).st_mtime, certificate = About(Settings().certificate).st_mtime;
    ASSERT_TRUE(Put("two").ok());
    EXPECT_GT(About(Settings().key).st_mtime, key);
    EXPECT_GT(About(Settings().certificate).st_mtime, certificate);
  }
}

TEST_F(TlsFolderTest, WhatCannotBeWrittenLeavesWhatIsThere) {
  ASSERT_TRUE(Put("one").ok());
  fs::create_directory(Folders().at(0) + "/2");  // in the way
  EXPECT_EQ(Put("two").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Text(Settings().key), "key one");
  EXPECT_TRUE(Put("three").ok());
  EXPECT_EQ(Text(Settings().key), "key three");
}

TEST_F(TlsFolderTest, NothingIsLeft) {
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(Put("more").ok());
  const auto inside = fs::directory_iterator(Folders().at(0));
  EXPECT_LE(std::distance(begin(inside), end(inside)), 3);  // the link, the last two
  folder_.reset();
  EXPECT_TRUE(Folders().empty());
}

// A server that is killed leaves its key; the next one does not.
TEST_F(TlsFolderTest, WhatAKilledProcessLeftIsRemovedAndNothingElse) {
  ASSERT_TRUE(Put("one").ok());
  const std::string mine = Folders().at(0), dead = (parent_ / "fresco-server-tls-dead").string();
  fs::copy(mine, dead, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  fs::create_directory(parent_ / "of-others");
  auto other = TlsFolder::Make(parent_.string());
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_FALSE(fs::exists(dead));
  EXPECT_TRUE(fs::exists(parent_ / "of-others"));
  EXPECT_EQ(Text(Settings().key), "key one");
}

TEST(TlsFolderPlaceTest, APlaceThatThereIsNotIsNamed) {
  const absl::Status status = TlsFolder::Make("/no/such/place").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(std::string(status.message()).find("/no/such/place"), std::string::npos);
}

}  // namespace
}  // namespace fresco
