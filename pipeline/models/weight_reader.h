// Brings a component's stored weights to the device and type they are computed in.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/models/layers.h"
#include "pipeline/models/placement.h"

namespace fresco {

// Reads what a model asks for, checking shapes. The first error is kept and makes every later read return undefined
// tensors, so that a model's weights read as a list of names and shapes: check status() at the end, and before using
// anything.
//
// On the CPU a tensor that is stored in the type it is computed in, aligned, is the file's mapping itself (read-only:
// writing to it faults); all others are converted once.
class WeightReader {
 public:
  WeightReader(WeightStore store, const Placement& placement);
  // Random weights made on the device, every tensor that is asked for: for measuring speed without a checkpoint.
  explicit WeightReader(const Placement& placement);

  at::Tensor Tensor(const std::string& name, const std::vector<int64_t>& shape);
  // As Tensor, in a type of its own.
  at::Tensor TensorAs(const std::string& name, const std::vector<int64_t>& shape, at::ScalarType dtype);
  // As it is stored, on the host; not counted in bytes().
  at::Tensor Stored(const std::string& name, const std::vector<int64_t>& shape);

  // PREFIX.weight and PREFIX.bias, packed where that is faster (Linear::Pack).
  Linear ReadLinear(const std::string& prefix, int64_t in, int64_t out, bool bias = true);
  // Several linears of one input as one: rows of the first, then of the second, …
  struct Part {
    std::string prefix;
    int64_t out = 0;
  };
  Linear ReadStacked(const std::vector<Part>& parts, int64_t in, bool bias = true);
  // PREFIX.weight alone, in a type of its own.
  Linear ReadLinearAs(const std::string& prefix, int64_t in, int64_t out, at::ScalarType dtype);
  // `linear`, packed where that is faster.
  Linear Pack(const Linear& linear) const;
  Norm ReadNorm(const std::string& prefix, int64_t dim);
  // Channels last, on a CPU the faster layout.
  Conv ReadConv(const std::string& prefix, int64_t in, int64_t out, int64_t kernel);

  bool Contains(std::string_view name) const { return store_ && store_->Contains(name); }
  // For what is wrong beyond a tensor.
  void Fail(absl::Status status);

  const absl::Status& status() const { return status_; }
  int64_t bytes() const { return bytes_; }  // of the weights handed out, as placed
  const Placement& placement() const { return placement_; }

 private:
  absl::StatusOr<at::Tensor> Find(const std::string& name, const std::vector<int64_t>& shape) const;
  at::Tensor Place(const at::Tensor& stored, at::ScalarType dtype);
  at::Tensor Stack(const std::vector<at::Tensor>& parts);
  at::Tensor Random(const std::vector<int64_t>& shape) const;

  const std::optional<WeightStore> store_;  // nothing: random weights
  const Placement placement_;
  const bool pack_;
  const at::Tensor random_;  // small normal numbers, on the device; undefined where there is a store
  absl::Status status_;
  int64_t bytes_ = 0;
};

}  // namespace fresco
