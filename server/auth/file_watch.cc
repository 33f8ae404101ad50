#include "server/auth/file_watch.h"

#include <sys/stat.h>

#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

// What tells one state of the files from another without reading them.
std::string Fingerprint(const std::vector<std::string>& paths) {
  std::string print;
  for (const std::string& path : paths) {
    struct stat about = {};
    if (stat(path.c_str(), &about) != 0) about = {};
    print += StrCat(about.st_dev, " ", about.st_ino, " ", about.st_size, " ", about.st_mtim.tv_sec, ".",
                    about.st_mtim.tv_nsec, "\n");
  }
  return print;
}

}  // namespace

FileWatch::FileWatch(std::vector<std::string> paths, absl::Duration interval, Clock* clock,
                     std::function<void(bool)> on_look)
    : paths_(std::move(paths)),
      interval_(interval),
      clock_(clock),
      on_look_(std::move(on_look)),
      seen_(Fingerprint(paths_)) {}

void FileWatch::Start() {
  thread_ = std::thread([this] { Run(); });
}

FileWatch::~FileWatch() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    stopping_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void FileWatch::Run() {
  for (;;) {
    {
      MutexLock lock(&mutex_);
      const absl::Time next = clock_->Now() + interval_;
      while (!stop_ && clock_->Now() < next) clock_->WaitUntil(&stopping_, &mutex_, next);
      if (stop_) return;
    }
    std::string now = Fingerprint(paths_);
    on_look_(std::exchange(seen_, now) != now);
  }
}

}  // namespace fresco
