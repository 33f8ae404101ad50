// A folder of one's own among the system's temporary files.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace fresco {

// Goes, with all that is in it, when the object does.
class TemporaryFolder {
 public:
  // `what` it is for, as part of its name. UNAVAILABLE, with the path, where it cannot be made.
  static absl::StatusOr<TemporaryFolder> Make(std::string_view what);

  ~TemporaryFolder();
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;

  std::string File(std::string_view name) const { return (path_ / name).string(); }

 private:
  explicit TemporaryFolder(std::filesystem::path path) : path_(std::move(path)) {}

  std::filesystem::path path_;
};

}  // namespace fresco
