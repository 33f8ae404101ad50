#include "server/log/line_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "gtest/gtest.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

class LineFileTest : public ::testing::Test {
 protected:
  LineFileTest() {
    std::string name = (fs::temp_directory_path() / "fresco-lines-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    fs::create_directory(folder_ / "audit");
    file_ = *LineFile::Open(Path());
  }
  ~LineFileTest() override { fs::remove_all(folder_); }

  std::string Path() const { return (folder_ / "audit/lines").string(); }
  static std::string Text(const fs::path& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }

  fs::path folder_;
  std::unique_ptr<LineFile> file_;
};

// As logrotate does without copytruncate.
TEST_F(LineFileTest, ARenamedFileIsLeftAlone) {
  ASSERT_TRUE(file_->Write("one").ok());
  fs::rename(Path(), folder_ / "lines.1");
  ASSERT_TRUE(file_->Write("two").ok());
  ASSERT_TRUE(file_->Write("three").ok());
  EXPECT_EQ(Text(folder_ / "lines.1"), "one\n");
  EXPECT_EQ(Text(Path()), "two\nthree\n");
  EXPECT_EQ(fs::status(Path()).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(LineFileTest, AFileThatAnotherHasTakenThePlaceOfIsLeftAlone) {
  ASSERT_TRUE(file_->Write("one").ok());
  std::ofstream(folder_ / "fresh") << "header\n";
  fs::rename(folder_ / "fresh", Path());
  ASSERT_TRUE(file_->Write("two").ok());
  EXPECT_EQ(Text(Path()), "header\ntwo\n");
}

TEST_F(LineFileTest, ARemovedFileIsMadeAnew) {
  ASSERT_TRUE(file_->Write("one").ok());
  fs::remove(Path());
  ASSERT_TRUE(file_->Write("two").ok());
  EXPECT_EQ(Text(Path()), "two\n");
}

TEST_F(LineFileTest, ACopiedAndCutFileGoesOn) {
  ASSERT_TRUE(file_->Write("one").ok());
  fs::resize_file(Path(), 0);
  ASSERT_TRUE(file_->Write("two").ok());
  EXPECT_EQ(Text(Path()), "two\n");
}

// Whoever writes hears of it, and can put the line elsewhere.
TEST_F(LineFileTest, WhereNoFileCanBeMadeTheLineIsRefusedUntilItCan) {
  fs::rename(folder_ / "audit", folder_ / "away");
  EXPECT_EQ(file_->Write("one").code(), absl::StatusCode::kUnavailable);
  fs::create_directory(folder_ / "audit");
  EXPECT_TRUE(file_->Write("two").ok());
  EXPECT_EQ(Text(Path()), "two\n");
  EXPECT_EQ(Text(folder_ / "away/lines"), "");
}

}  // namespace
}  // namespace fresco
