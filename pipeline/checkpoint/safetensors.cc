#include "pipeline/checkpoint/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_join.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_parse.h"

namespace fresco {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data are little-endian and used in place");

using Json = nlohmann::json;
using Entry = SafetensorsFile::Entry;

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 16 << 20;  // 100 thousand tensors; the largest real ones are below 1 MiB
constexpr int kMaxHeaderDepth = 4;
constexpr size_t kMaxRank = 16;
constexpr std::string_view kMetadataKey = "__metadata__";

absl::Status Invalid(std::string_view path, std::string_view message) {
  return absl::InvalidArgumentError(StrCat(path, ": ", message));
}

absl::Status InvalidTensor(std::string_view path, std::string_view tensor, std::string_view message) {
  return Invalid(path, StrCat("tensor \"", PrintableName(tensor), "\": ", message));
}

absl::Status ErrnoStatus(std::string_view path, std::string_view what) {
  return absl::ErrnoToStatus(errno, StrCat(path, ": ", what));
}

// Fits 63 bits at every factor, so that the number of elements does too, in any order.
std::optional<uint64_t> Product(const std::vector<int64_t>& shape, int64_t element_bytes) {
  int64_t product = element_bytes;
  for (int64_t extent : shape) {
    if (__builtin_mul_overflow(product, extent, &product)) return std::nullopt;
  }
  return static_cast<uint64_t>(product);
}

// Of a shape that CheckExtent has passed.
int64_t ElementsOf(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (int64_t extent : shape) product *= extent;
  return product;
}

// {"dtype": …, "shape": […], "data_offsets": [begin, end]}, of which each part is of the right kind.
absl::StatusOr<Entry> ParseEntry(const Json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("its entry is not an object");
  const auto dtype = json.find("dtype"), shape = json.find("shape"), offsets = json.find("data_offsets");
  if (dtype == json.end() || !dtype->is_string()) return absl::InvalidArgumentError("dtype is missing or not a string");
  if (shape == json.end() || !shape->is_array()) return absl::InvalidArgumentError("shape is missing or not a list");
  if (offsets == json.end() || !offsets->is_array() || offsets->size() != 2) {
    return absl::InvalidArgumentError("data_offsets is missing or not a pair");
  }
  Entry entry{.dtype_name = dtype->get<std::string>()};
  if (shape->size() > kMaxRank) return absl::InvalidArgumentError(StrCat("over ", kMaxRank, " dimensions"));
  for (const Json& extent : *shape) {
    if (!extent.is_number_unsigned() || extent.get<uint64_t>() > std::numeric_limits<int64_t>::max()) {
      return absl::InvalidArgumentError("an extent of its shape is not a whole number that fits 63 bits");
    }
    entry.shape.push_back(extent.get<int64_t>());
  }
  if (!(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return absl::InvalidArgumentError("data_offsets are not whole numbers that fit 64 bits");
  }
  entry.begin = (*offsets)[0].get<uint64_t>();
  entry.end = (*offsets)[1].get<uint64_t>();
  return entry;
}

absl::Status CheckExtent(const Entry& entry, uint64_t data_bytes) {
  if (entry.begin > entry.end || entry.end > data_bytes) {
    return absl::InvalidArgumentError(StrCat("bytes ", entry.begin, " to ", entry.end, " lie outside the ", data_bytes,
                                             " bytes of data (is the file truncated?)"));
  }
  const std::optional<DType> dtype = ParseDType(entry.dtype_name);
  const std::optional<uint64_t> bytes = Product(entry.shape, dtype ? DTypeBytes(*dtype) : 1);
  if (!bytes) return absl::InvalidArgumentError(StrCat("shape ", ShapeString(entry.shape), " overflows"));
  if (!dtype) {  // refused when somebody asks for it: nobody may
    if (*bytes / 8 <= entry.bytes()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        StrCat("shape ", ShapeString(entry.shape), " has more elements than its ", entry.bytes(), " bytes have bits"));
  }
  if (*bytes != entry.bytes()) {
    return absl::InvalidArgumentError(StrCat("shape ", ShapeString(entry.shape), " of ", entry.dtype_name, " takes ",
                                             *bytes, " bytes, but it has ", entry.bytes()));
  }
  return absl::OkStatus();
}

// The tensors cover the data section once, as the format demands: no bytes are shared or belong to nobody.
absl::Status CheckCoverage(std::string_view path, const std::map<std::string, Entry, std::less<>>& entries,
                           uint64_t data_bytes) {
  std::vector<std::pair<const std::string*, const Entry*>> order;
  order.reserve(entries.size());
  for (const auto& [name, entry] : entries) order.emplace_back(&name, &entry);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  uint64_t covered = 0;
  for (const auto& [name, entry] : order) {
    if (entry->begin != covered) {
      return InvalidTensor(
          path, *name,
          StrCat("starts at byte ", entry->begin, ", where byte ", covered, " is next: data overlap or have a gap"));
    }
    covered = entry->end;
  }
  if (covered != data_bytes) {
    return Invalid(path, StrCat(data_bytes - covered, " bytes after the last tensor belong to none"));
  }
  return absl::OkStatus();
}

absl::Status ParseMetadata(std::string_view path, const Json& json, std::map<std::string, std::string>* metadata) {
  if (!json.is_object()) return Invalid(path, "__metadata__ is not an object");
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) {
      return Invalid(path, StrCat("__metadata__ \"", PrintableName(key), "\" is not a string"));
    }
    metadata->emplace(key, value.get<std::string>());
  }
  return absl::OkStatus();
}

}  // namespace

// The bytes of a file, mapped read-only.
class SafetensorsFile::Mapping {
 public:
  static absl::StatusOr<std::shared_ptr<const Mapping>> Open(const std::string& path) {
    // O_NONBLOCK: opening a FIFO must not wait for its writer. It has no effect on files.
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return ErrnoStatus(path, "cannot be opened");
    absl::StatusOr<std::shared_ptr<const Mapping>> mapping = Map(path, fd);
    ::close(fd);  // the mapping stays
    return mapping;
  }

  ~Mapping() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  const std::byte* data() const { return static_cast<const std::byte*>(data_); }
  size_t size() const { return size_; }

 private:
  Mapping(void* data, size_t size) : data_(data), size_(size) {}

  static absl::StatusOr<std::shared_ptr<const Mapping>> Map(const std::string& path, int fd) {
    struct stat info = {};
    if (::fstat(fd, &info) != 0) return ErrnoStatus(path, "cannot be examined");
    if (!S_ISREG(info.st_mode)) return Invalid(path, "is not a file");
    const size_t size = static_cast<size_t>(info.st_size);
    if (size < kLengthBytes) return Invalid(path, StrCat("truncated: ", size, " bytes, where a header takes 8"));
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) return ErrnoStatus(path, "cannot be mapped into memory");
    return std::shared_ptr<const Mapping>(new Mapping(data, size));
  }

  void* const data_;
  const size_t size_;
};

int64_t TensorView::numel() const {
  return ElementsOf(shape);
}

int64_t SafetensorsFile::Entry::numel() const {
  return ElementsOf(shape);
}

bool TensorView::AlignedToElement() const {
  return reinterpret_cast<uintptr_t>(data) % DTypeBytes(dtype) == 0;
}

std::string ShapeString(const std::vector<int64_t>& shape) {
  return StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile());
  file->path_ = path;
  FRESCO_ASSIGN_OR_RETURN(file->mapping_, Mapping::Open(path));
  const std::byte* start = file->mapping_->data();
  const uint64_t after_length = file->mapping_->size() - kLengthBytes;
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, start, kLengthBytes);
  if (header_bytes > kMaxHeaderBytes) {
    return Invalid(
        path, StrCat("not a safetensors file: a header of ", header_bytes, " bytes (at most ", kMaxHeaderBytes, ")"));
  }
  if (header_bytes > after_length) {
    return Invalid(path, StrCat("truncated: a header of ", header_bytes, " bytes, of which ", after_length, " exist"));
  }
  file->data_ = start + kLengthBytes + header_bytes;
  const std::string_view header(reinterpret_cast<const char*>(start) + kLengthBytes, header_bytes);
  FRESCO_RETURN_IF_ERROR(file->ParseHeader(header, after_length - header_bytes));
  return file;
}

absl::Status SafetensorsFile::ParseHeader(std::string_view header, uint64_t data_bytes) {
  absl::StatusOr<Json> json = ParseJson(header, kMaxHeaderDepth);
  if (!json.ok()) return Annotate(json.status(), StrCat(path_, ": header"));
  if (!json->is_object()) return Invalid(path_, "header: not an object");
  for (const auto& [name, value] : json->items()) {
    if (name == kMetadataKey) {
      FRESCO_RETURN_IF_ERROR(ParseMetadata(path_, value, &metadata_));
      continue;
    }
    absl::StatusOr<Entry> entry = ParseEntry(value);
    if (!entry.ok()) return InvalidTensor(path_, name, ToStd(entry.status().message()));
    if (absl::Status sound = CheckExtent(*entry, data_bytes); !sound.ok()) {
      return InvalidTensor(path_, name, ToStd(sound.message()));
    }
    entries_.emplace(name, *std::move(entry));
  }
  return CheckCoverage(path_, entries_, data_bytes);
}

absl::StatusOr<TensorView> SafetensorsFile::Find(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    return absl::NotFoundError(StrCat(path_, ": no tensor \"", PrintableName(name), "\""));
  }
  const Entry& entry = found->second;
  const std::optional<DType> dtype = ParseDType(entry.dtype_name);
  if (!dtype) {
    return absl::UnimplementedError(StrCat(path_, ": tensor \"", PrintableName(name), "\": element type \"",
                                           PrintableName(entry.dtype_name), "\" is not known"));
  }
  return TensorView{
      .dtype = *dtype, .shape = entry.shape, .data = data_ + entry.begin, .bytes = entry.bytes(), .mapping = mapping_};
}

}  // namespace fresco
