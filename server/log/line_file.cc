#include "server/log/line_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

absl::Status Failed(const std::string& path, const char* what) {
  return absl::UnavailableError(StrCat(path, ": ", what, ": ", std::strerror(errno)));
}

int OpenToAppend(const std::string& path) {
  return open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LineFile>> LineFile::Open(const std::string& path) {
  const int descriptor = OpenToAppend(path);
  if (descriptor < 0) return Failed(path, "cannot be opened");
  return std::unique_ptr<LineFile>(new LineFile(path, descriptor));
}

LineFile::~LineFile() {
  close(descriptor_);
}

bool LineFile::IsAtItsPath() const {
  struct stat there = {}, here = {};
  return stat(path_.c_str(), &there) == 0 && fstat(descriptor_, &here) == 0 && there.st_dev == here.st_dev &&
         there.st_ino == here.st_ino;
}

absl::Status LineFile::Write(std::string_view line) {
  MutexLock lock(&mutex_);
  if (!IsAtItsPath()) {
    const int descriptor = OpenToAppend(path_);
    if (descriptor < 0) return Failed(path_, "cannot be opened");
    close(std::exchange(descriptor_, descriptor));
    writer_ = LineWriter(descriptor);
  }
  if (writer_.Write(line)) return absl::OkStatus();
  return Failed(path_, "cannot be written");
}

}  // namespace fresco
