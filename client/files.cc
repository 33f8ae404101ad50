#include "client/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

absl::Status SystemError(std::string_view action, const std::string& path) {
  return absl::ErrnoToStatus(errno, ToAbsl(StrCat("can not ", action, " ", path)));
}

absl::Status WriteAll(int file, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError("write", path);
    bytes.remove_prefix(written);
  }
  return absl::OkStatus();
}

// What is written into: a file put in its place would take it from everybody, /dev/null say.
bool IsDeviceOrPipe(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_type type = std::filesystem::status(path, error).type();
  return type == std::filesystem::file_type::character || type == std::filesystem::file_type::fifo ||
         type == std::filesystem::file_type::block || type == std::filesystem::file_type::socket;
}

absl::Status WriteInto(const std::string& path, std::string_view bytes) {
  const int file = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (file < 0) return SystemError("write", path);
  absl::Status status = WriteAll(file, bytes, path);
  if (close(file) != 0 && status.ok()) status = SystemError("write", path);
  return status;
}

// The process's umask, which can be read only by setting it: once, not by several threads at a time.
mode_t FileMask() {
  static const mode_t mask = [] {
    const mode_t old = umask(0);
    umask(old);
    return old;
  }();
  return mask;
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) return SystemError("open", path);
  std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (file.bad() || IsDirectory(path)) return absl::InvalidArgumentError(StrCat("can not read ", path));
  return bytes;
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view bytes) {
  if (IsDeviceOrPipe(path)) return WriteInto(path, bytes);
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  if (error) return absl::FailedPreconditionError(StrCat("can not make ", folder.string(), ": ", error.message()));

  std::string temporary = path + ".XXXXXX";
  const int file = mkostemp(temporary.data(), O_CLOEXEC);
  if (file < 0) return SystemError("write", path);
  absl::Status status = WriteAll(file, bytes, path);
  // mkostemp's files are the owner's alone; a picture is as readable as any file.
  if (status.ok() && fchmod(file, 0666 & ~FileMask()) != 0) status = SystemError("write", path);
  if (close(file) != 0 && status.ok()) status = SystemError("write", path);
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) status = SystemError("write", path);
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

absl::Status CheckWritable(const std::string& path) {
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  while (!folder.empty() && folder.has_relative_path() &&
         std::filesystem::symlink_status(folder, error).type() == std::filesystem::file_type::not_found) {
    folder = folder.parent_path();
  }
  const std::string deepest = folder.empty() ? "." : folder.string();
  errno = IsDirectory(deepest) ? 0 : ENOTDIR;
  const bool writable = errno == 0 && access(deepest.c_str(), W_OK | X_OK) == 0;
  return writable ? absl::OkStatus() : SystemError("write into", deepest);
}

bool FileExists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

bool IsDirectory(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

}  // namespace fresco
