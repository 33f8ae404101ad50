#include "server/auth/file_watch.h"

#include <filesystem>
#include <fstream>
#include <vector>

#include "gtest/gtest.h"
#include "pipeline/base/clock.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

class FileWatchTest : public ::testing::Test {
 protected:
  FileWatchTest() {
    std::string name = (fs::temp_directory_path() / "fresco-watch-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    Write("a", "one");
    Write("b", "one");
  }
  ~FileWatchTest() override {
    watch_.reset();
    fs::remove_all(folder_);
  }

  void Write(const std::string& name, const std::string& text) { std::ofstream(folder_ / name) << text; }
  void Start(const std::string& file) {
    Make(file);
    watch_->Start();
  }
  void Make(const std::string& file) {
    watch_ = std::make_unique<FileWatch>(std::vector<std::string>{(folder_ / file).string()}, absl::Milliseconds(1),
                                         &clock_, [this](bool changed) {
                                           MutexLock lock(&mutex_);
                                           ++looks_;
                                           changes_ += changed ? 1 : 0;
                                           looked_.NotifyAll();
                                         });
  }
  // Changes that are seen from now on, until two more looks saw none.
  int Changes() {
    MutexLock lock(&mutex_);
    const int before = changes_;
    int quiet_since = looks_;
    for (int seen = changes_; looks_ < quiet_since + 3; looked_.Wait(&mutex_)) {
      if (changes_ != seen) quiet_since = looks_;
      seen = changes_;
    }
    return changes_ - before;
  }

  fs::path folder_;
  SystemClock clock_;
  Mutex mutex_;
  CondVar looked_;
  int looks_ FRESCO_GUARDED_BY(mutex_) = 0;
  int changes_ FRESCO_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<FileWatch> watch_;
};

TEST_F(FileWatchTest, WhatStaysIsNoChange) {
  Start("a");
  EXPECT_EQ(Changes(), 0);
}

TEST_F(FileWatchTest, SeesWhatIsRenamedOverIt) {
  Start("a");
  Changes();
  {
    MutexLock lock(&mutex_);
    fs::rename(folder_ / "b", folder_ / "a");  // of the same length
    while (changes_ == 0) looked_.Wait(&mutex_);
  }
  EXPECT_EQ(Changes(), 0);
}

TEST_F(FileWatchTest, SeesAtItsFirstLookWhatHasChangedSinceItWasMade) {
  Make("a");
  fs::rename(folder_ / "b", folder_ / "a");
  watch_->Start();
  MutexLock lock(&mutex_);
  while (looks_ == 0) looked_.Wait(&mutex_);
  EXPECT_EQ(changes_, 1);
}

// As Kubernetes does: the folder behind a link is another.
TEST_F(FileWatchTest, SeesALinkThatLeadsElsewhere) {
  fs::create_directory(folder_ / "old");
  fs::create_directory(folder_ / "new");
  fs::rename(folder_ / "a", folder_ / "old" / "file");
  fs::rename(folder_ / "b", folder_ / "new" / "file");
  fs::create_directory_symlink("old", folder_ / "current");
  Start("current/file");
  EXPECT_EQ(Changes(), 0);
  MutexLock lock(&mutex_);
  fs::create_directory_symlink("new", folder_ / "next");
  fs::rename(folder_ / "next", folder_ / "current");
  while (changes_ == 0) looked_.Wait(&mutex_);
}

TEST_F(FileWatchTest, SeesAFileGoAndComeBack) {
  Start("a");
  MutexLock lock(&mutex_);
  fs::remove(folder_ / "a");
  while (changes_ == 0) looked_.Wait(&mutex_);
  fs::rename(folder_ / "b", folder_ / "a");
  while (changes_ == 1) looked_.Wait(&mutex_);
}

}  // namespace
}  // namespace fresco
