// Reads one safetensors file by mapping it into memory: nothing is copied, and pages are read when they are touched.
// Format: https://github.com/huggingface/safetensors#format (8 bytes little-endian header length, JSON header, data).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/checkpoint/dtype.h"

namespace fresco {

// A tensor as it lies in a file: row-major, little-endian, possibly not aligned to its element size.
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // empty: a scalar
  const std::byte* data = nullptr;
  size_t bytes = 0;
  std::shared_ptr<const void> mapping;  // keeps `data` readable

  int64_t numel() const;
  bool AlignedToElement() const;
};

// "[768, 3072]"
std::string ShapeString(const std::vector<int64_t>& shape);

// Immutable and thread-safe once open. The file must not be truncated or written to while it is open: the mapping is
// the file (a truncated file raises SIGBUS on access). Whoever replaces weights writes a new file and renames it over
// the old.
class SafetensorsFile {
 public:
  // A tensor's entry in the header. dtype_name is what the file says, known to us or not.
  struct Entry {
    std::string dtype_name;
    std::vector<int64_t> shape;
    uint64_t begin = 0;  // byte offsets into the data section
    uint64_t end = 0;

    int64_t numel() const;
    uint64_t bytes() const { return end - begin; }
  };

  // NOT_FOUND or PERMISSION_DENIED for a file that cannot be opened; INVALID_ARGUMENT, naming the file and where there
  // is one the tensor, for whatever is not a sound safetensors file: truncated, header over 16 MiB or not JSON,
  // duplicate keys, shapes whose product overflows or does not match the byte range (for a type that
  // is not known: has more elements than bits), ranges out of the file, overlapping or with gaps.
  static absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Open(const std::string& path);

  // NOT_FOUND for a name that is not there, UNIMPLEMENTED for an element type outside DType; both name file and tensor.
  absl::StatusOr<TensorView> Find(std::string_view name) const;

  // The data of one of entries(), of whatever type; they live as long as this file.
  std::span<const std::byte> Data(const Entry& entry) const { return {data_ + entry.begin, entry.bytes()}; }

  bool Contains(std::string_view name) const { return entries_.find(name) != entries_.end(); }
  const std::string& path() const { return path_; }
  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }  // by name
  const std::map<std::string, std::string>& metadata() const { return metadata_; }       // "__metadata__"

 private:
  class Mapping;
  SafetensorsFile() = default;
  absl::Status ParseHeader(std::string_view header, uint64_t data_bytes);

  std::string path_;
  std::shared_ptr<const Mapping> mapping_;
  const std::byte* data_ = nullptr;  // where the data section starts
  std::map<std::string, Entry, std::less<>> entries_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace fresco
