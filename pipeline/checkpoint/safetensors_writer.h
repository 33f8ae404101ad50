// Writes one safetensors file from first to last byte, whatever its size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/checkpoint/dtype.h"

namespace fresco {

// What is to be written must be known beforehand, but the data need not: they are given a tensor, or a part of one, at
// a time, and nothing is kept. The file appears under its name when it is complete; until then it lies beside it, and
// is gone when the writer is.
//
// Tensors begin at multiples of kAlignment, so that readers that map the file can use them where they lie: those whose
// bytes are a multiple of it lie first, in the order given, then the others, which are aligned to their element.
class SafetensorsWriter {
 public:
  static constexpr size_t kAlignment = 64;

  struct Tensor {
    std::string name;
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;  // empty: a scalar

    size_t bytes() const;
  };
  struct Options {
    std::map<std::string, std::string> metadata;  // "__metadata__"
    bool replace = false;                         // a file that is there already
  };

  // Writes the header. ALREADY_EXISTS for a path that is there unless it may be replaced, INVALID_ARGUMENT for a name
  // that comes twice or a header that no reader would take (over 16 MiB), and what the system says for a folder that
  // cannot be written to. All errors name the path.
  static absl::StatusOr<SafetensorsWriter> Create(const std::string& path, std::vector<Tensor> tensors,
                                                  const Options& options);

  SafetensorsWriter(SafetensorsWriter&& other) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) = delete;
  ~SafetensorsWriter();

  // In the order of the file, in which their data are to be given.
  const std::vector<Tensor>& tensors() const { return tensors_; }

  // The next bytes of the data. RESOURCE_EXHAUSTED where the disk is full; INVALID_ARGUMENT for more than the tensors
  // take. After an error the file cannot be finished.
  absl::Status Write(std::span<const std::byte> data);

  // Gives the file its name, once all data are on the disk. FAILED_PRECONDITION where some were not given.
  absl::Status Finish();

  uint64_t file_bytes() const { return header_bytes_ + data_bytes_; }

 private:
  SafetensorsWriter() = default;
  absl::Status Open(const std::string& path, bool replace);
  absl::Status WriteAll(std::span<const std::byte> bytes);
  absl::Status Error(std::string_view what) const;  // of errno

  std::string path_;
  std::string temporary_;  // empty once it is gone
  int descriptor_ = -1;
  std::vector<Tensor> tensors_;
  uint64_t header_bytes_ = 0;
  uint64_t data_bytes_ = 0;  // of all tensors
  uint64_t written_ = 0;     // of data_bytes_
};

}  // namespace fresco
