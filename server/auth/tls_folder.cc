#include "server/auth/tls_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

constexpr char kPrefix[] = "fresco-server-tls-";
constexpr char kCurrent[] = "current";  // a link to the folder of the last put
constexpr char kCertificate[] = "certificate.pem";
constexpr char kKey[] = "key.pem";
constexpr char kClientCa[] = "client_ca.pem";

absl::Status Failed(const std::string& path, const char* what) {
  return absl::UnavailableError(StrCat(path, ": ", what, ": ", std::strerror(errno)));
}

bool WriteAll(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(file, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

absl::Status Write(const std::string& path, std::string_view text, int64_t stamp) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return Failed(path, "cannot be made");
  const timespec time = {static_cast<time_t>(stamp), 0};
  const timespec times[] = {time, time};
  const bool written = WriteAll(file, text) && futimens(file, times) == 0;
  const absl::Status status = written ? absl::OkStatus() : Failed(path, "cannot be written");
  close(file);
  return status;
}

void Remove(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
}

// -1 if it is no folder, or another process's.
int Lock(const fs::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor < 0 || flock(descriptor, LOCK_EX | LOCK_NB) == 0) return descriptor;
  close(descriptor);
  return -1;
}

// A process that was killed has left its key: nobody holds the lock. One that has just been made has no link yet.
void RemoveLeft(const fs::path& parent) {
  std::error_code error, none;
  for (fs::directory_iterator it(parent, error), end; !error && it != end; it.increment(error)) {
    struct stat about = {};
    if (it->path().filename().string().rfind(kPrefix, 0) != 0 || lstat(it->path().c_str(), &about) != 0 ||
        about.st_uid != geteuid() || !fs::is_symlink(it->path() / kCurrent, none))
      continue;
    const int lock = Lock(it->path());
    if (lock < 0) continue;
    Remove(it->path());
    close(lock);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<TlsFolder>> TlsFolder::Make(const std::string& parent) {
  RemoveLeft(parent);
  std::string path = StrCat(parent, "/", kPrefix, "XXXXXX");
  if (mkdtemp(path.data()) == nullptr) return Failed(path, "this folder for certificates cannot be made");
  const int lock = Lock(path);
  if (lock < 0) return Failed(path, "cannot be locked");
  return std::unique_ptr<TlsFolder>(new TlsFolder(std::move(path), lock));
}

TlsFolder::~TlsFolder() {
  Remove(path_);
  close(lock_);
}

absl::Status TlsFolder::Put(const TlsFiles& files) {
  std::string folder = StrCat(path_, "/", ++puts_);
  if (const absl::Status status = PutInto(folder, files); !status.ok()) {
    Remove(folder);
    return status;
  }
  // The one before stays once more, for whoever has just followed the link.
  if (!previous_.empty()) Remove(previous_);
  previous_ = std::exchange(current_, std::move(folder));
  return absl::OkStatus();
}

// gRPC looks at the times of key and certificate, in whole seconds, before it reads them and after, and reads again
// where one has changed: as long as those of each put are others, it never has the key of one and the certificate of
// another.
absl::Status TlsFolder::PutInto(const std::string& folder, const TlsFiles& files) {
  struct stat about = {};
  if (mkdir(folder.c_str(), 0700) != 0 || stat(folder.c_str(), &about) != 0) return Failed(folder, "cannot be made");
  stamp_ = std::max<int64_t>(about.st_mtim.tv_sec, stamp_ + 1);
  FRESCO_RETURN_IF_ERROR(Write(StrCat(folder, "/", kCertificate), files.certificate, stamp_));
  FRESCO_RETURN_IF_ERROR(Write(StrCat(folder, "/", kKey), files.key, stamp_));
  FRESCO_RETURN_IF_ERROR(Write(StrCat(folder, "/", kClientCa), files.client_ca, stamp_));
  return Point(folder);
}

// In one step, as a rename is.
absl::Status TlsFolder::Point(const std::string& folder) {
  const std::string next = StrCat(path_, "/next"), current = StrCat(path_, "/", kCurrent);
  unlink(next.c_str());
  if (symlink(folder.c_str(), next.c_str()) != 0 || rename(next.c_str(), current.c_str()) != 0)
    return Failed(current, "cannot be replaced");
  return absl::OkStatus();
}

TlsConfig TlsFolder::Settings(TlsConfig config) const {
  const std::string current = StrCat(path_, "/", kCurrent, "/");
  config.certificate = current + kCertificate;
  config.key = current + kKey;
  if (!config.client_ca.empty()) config.client_ca = current + kClientCa;
  return config;
}

}  // namespace fresco
