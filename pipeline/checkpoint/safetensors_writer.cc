#include "pipeline/checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr size_t kMaxHeaderBytes = 16 << 20;  // SafetensorsFile's
constexpr size_t kWrittenAtOnce = 64 << 20;   // one write() takes no more than 2 GiB
constexpr int kMaxLeftovers = 1000;
constexpr mode_t kMode = 0666;  // less the umask

// Whole multiples of the alignment first: each of these begins at one. Of the others, those of large elements first.
void SortForAlignment(std::vector<SafetensorsWriter::Tensor>* tensors) {
  const auto rank = [](const SafetensorsWriter::Tensor& tensor) {
    return tensor.bytes() % SafetensorsWriter::kAlignment == 0 ? int64_t{0} : 64 / DTypeBytes(tensor.dtype);
  };
  std::stable_sort(tensors->begin(), tensors->end(), [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
}

// Length, JSON, and blanks up to the alignment.
absl::StatusOr<std::string> HeaderOf(const std::vector<SafetensorsWriter::Tensor>& tensors,
                                     const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!metadata.empty()) json["__metadata__"] = metadata;
  std::set<std::string_view> names = {"__metadata__"};
  uint64_t begin = 0;
  for (const SafetensorsWriter::Tensor& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(StrCat("tensor \"", PrintableName(tensor.name), "\" comes twice"));
    }
    const uint64_t end = begin + tensor.bytes();
    json[tensor.name] = {
        {"dtype", std::string(DTypeName(tensor.dtype))}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  uint64_t length = sizeof(length) + text.size();
  length += (SafetensorsWriter::kAlignment - length % SafetensorsWriter::kAlignment) % SafetensorsWriter::kAlignment;
  length -= sizeof(length);
  if (length > kMaxHeaderBytes) return absl::InvalidArgumentError(StrCat("a header of ", length, " bytes"));
  text.resize(length, ' ');
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)).append(text);
}

}  // namespace

size_t SafetensorsWriter::Tensor::bytes() const {
  int64_t elements = 1;
  for (const int64_t extent : shape) elements *= extent;
  return static_cast<size_t>(elements * DTypeBytes(dtype));
}

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(const std::string& path, std::vector<Tensor> tensors,
                                                            const Options& options) {
  SafetensorsWriter writer;
  SortForAlignment(&tensors);
  writer.tensors_ = std::move(tensors);
  for (const Tensor& tensor : writer.tensors_) writer.data_bytes_ += tensor.bytes();
  absl::StatusOr<std::string> header = HeaderOf(writer.tensors_, options.metadata);
  if (!header.ok()) return Annotate(header.status(), path);
  writer.header_bytes_ = header->size();
  FRESCO_RETURN_IF_ERROR(writer.Open(path, options.replace));
  FRESCO_RETURN_IF_ERROR(writer.WriteAll(std::as_bytes(std::span(*header))));
  return writer;
}

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)),
      tensors_(std::move(other.tensors_)),
      header_bytes_(other.header_bytes_),
      data_bytes_(other.data_bytes_),
      written_(other.written_) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status SafetensorsWriter::Error(std::string_view what) const {
  return absl::ErrnoToStatus(errno, ToAbsl(StrCat(path_, ": ", what)));
}

absl::Status SafetensorsWriter::Open(const std::string& path, bool replace) {
  path_ = path;
  std::error_code error;
  if (!replace && std::filesystem::exists(path, error)) {
    return absl::AlreadyExistsError(StrCat(path, ": is there already"));
  }
  // In the same folder: renaming does not cross file systems. Never what another writer has left, or is writing: in
  // containers processes have the same numbers.
  std::string temporary = StrCat(path, ".part-", getpid());
  for (int other = 1; other <= kMaxLeftovers; ++other) {
    descriptor_ = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode);
    if (descriptor_ >= 0 || errno != EEXIST) break;
    temporary = StrCat(path, ".part-", getpid(), "-", other);
  }
  if (descriptor_ < 0) return Error("cannot be written");
  temporary_ = std::move(temporary);
  // A full disk is found now, and not hours later; file systems that cannot reserve do without.
  if (fallocate(descriptor_, 0, 0, static_cast<off_t>(file_bytes())) != 0 && errno == ENOSPC) {
    return Error(StrCat("cannot be written: ", file_bytes(), " bytes are needed"));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::WriteAll(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(descriptor_, bytes.data(), std::min(bytes.size(), kWrittenAtOnce));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error("cannot be written");
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Write(std::span<const std::byte> data) {
  if (data.size() > data_bytes_ - written_) {
    return absl::InvalidArgumentError(StrCat(path_, ": more data than its tensors' ", data_bytes_, " bytes"));
  }
  FRESCO_RETURN_IF_ERROR(WriteAll(data));
  written_ += data.size();
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  if (written_ != data_bytes_) {
    return absl::FailedPreconditionError(
        StrCat(path_, ": ", written_, " bytes of data were given, its tensors take ", data_bytes_));
  }
  // Some file systems only now say that the disk is full. And a crash must not leave a name without data.
  if (fsync(descriptor_) != 0 || close(std::exchange(descriptor_, -1)) != 0) return Error("cannot be written");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) return Error("cannot be written");
  temporary_.clear();
  return absl::OkStatus();
}

}  // namespace fresco
