#include "pipeline/checkpoint/text_file.h"

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/status/status.h"
#include "pipeline/base/strings.h"

namespace fresco {

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return absl::NotFoundError(StrCat(path, ": no such file"));
  if (!std::filesystem::is_regular_file(status)) {
    return absl::InvalidArgumentError(StrCat(path, ": is not a file"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::ErrnoToStatus(errno, StrCat(path, ": cannot be opened"));
  std::string text(max_bytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (file.bad()) return absl::DataLossError(StrCat(path, ": cannot be read"));
  if (text.size() > max_bytes) return absl::InvalidArgumentError(StrCat(path, ": over ", max_bytes, " bytes"));
  return text;
}

absl::Status WriteFileWhole(const std::string& path, std::string_view bytes) {
  const std::string unfinished = path + ".part";
  {
    std::ofstream file(unfinished, std::ios::binary);
    if (!file) return absl::ErrnoToStatus(errno, StrCat(unfinished, ": cannot be written"));
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!file.flush()) return absl::ErrnoToStatus(errno, StrCat(unfinished, ": cannot be written"));
  }
  std::error_code error;
  std::filesystem::rename(unfinished, path, error);
  return error ? absl::ErrnoToStatus(error.value(), StrCat(path, ": cannot be written")) : absl::OkStatus();
}

}  // namespace fresco
