// Where gRPC reads the certificate and its key from. It takes whatever it finds, also what is broken, has ended, or is
// half of a new pair; so it is given files of ours, into which only what has been checked is put.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/auth/tls_files.h"
#include "server/config/config.h"

namespace fresco {

// One thread at a time puts; others may read the files meanwhile.
class TlsFolder {
 public:
  // A new folder in `parent` that only this user can look into. Those are removed that processes left which were
  // killed. UNAVAILABLE if it cannot be made.
  static absl::StatusOr<std::unique_ptr<TlsFolder>> Make(const std::string& parent);
  // Removes it.
  ~TlsFolder();
  TlsFolder(const TlsFolder&) = delete;
  TlsFolder& operator=(const TlsFolder&) = delete;

  // Replaces all files at once. UNAVAILABLE, and the old ones stay, if they cannot be written.
  absl::Status Put(const TlsFiles& files);

  // The same settings with the files of here.
  TlsConfig Settings(TlsConfig config) const;

 private:
  TlsFolder(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}

  absl::Status PutInto(const std::string& folder, const TlsFiles& files);
  absl::Status Point(const std::string& folder);

  const std::string path_;
  const int lock_;  // open and locked for as long as the folder is in use
  int64_t puts_ = 0;
  int64_t stamp_ = 0;               // the last put's files', in seconds
  std::string current_, previous_;  // folders of puts
};

}  // namespace fresco
