#include "pipeline/checkpoint/text_file.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/status/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr size_t kPiece = 64 << 10;  // read first, then twice as much: most files are far smaller than they may be

absl::Status WriteBytes(const std::string& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.flush();
  return file ? absl::OkStatus() : absl::ErrnoToStatus(errno, StrCat(path, ": cannot be written"));
}

}  // namespace

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return absl::NotFoundError(StrCat(path, ": no such file"));
  if (!std::filesystem::is_regular_file(status)) {
    return absl::InvalidArgumentError(StrCat(path, ": is not a file"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::ErrnoToStatus(errno, StrCat(path, ": cannot be opened"));
  std::string text;
  for (size_t end = 0; file && end <= max_bytes; end = text.size()) {
    text.resize(std::min(end + std::max(end, kPiece), max_bytes + 1));
    file.read(text.data() + end, static_cast<std::streamsize>(text.size() - end));
    text.resize(end + static_cast<size_t>(file.gcount()));
  }
  if (file.bad()) return absl::DataLossError(StrCat(path, ": cannot be read"));
  if (text.size() > max_bytes) return absl::InvalidArgumentError(StrCat(path, ": over ", max_bytes, " bytes"));
  return text;
}

absl::Status WriteFileWhole(const std::string& path, std::string_view bytes) {
  const std::string unfinished = path + ".part";
  absl::Status written = WriteBytes(unfinished, bytes);
  std::error_code error;
  if (written.ok()) {
    std::filesystem::rename(unfinished, path, error);
    if (!error) return absl::OkStatus();
    written = absl::ErrnoToStatus(error.value(), StrCat(path, ": cannot be written"));
  }
  std::filesystem::remove(unfinished, error);  // of a full disk, what is left would keep it full
  return written;
}

}  // namespace fresco
