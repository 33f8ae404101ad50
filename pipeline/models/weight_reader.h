// Brings a component's stored weights to the device and type they are computed in.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "pipeline/checkpoint/stored_weight.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/models/layers.h"
#include "pipeline/models/linear_info.h"
#include "pipeline/models/placement.h"
#include "pipeline/models/staged_copy.h"
#include "pipeline/models/stored_linear.h"
#include "pipeline/precision/layer_table.h"
#include "pipeline/precision/scheme.h"

namespace fresco {

// Reads what a model asks for, checking shapes. The first error is kept and makes every later read return undefined
// tensors, so that a model's weights read as a list of names and shapes: check status() at the end, and before using
// anything.
//
// On the CPU a tensor that is stored in the type it is computed in, aligned, is the file's mapping itself (read-only:
// writing to it faults); all others are converted once. For another device they are converted and quantised piece by
// piece on their way (StagedCopy): from the file's mapping, with no second copy on the host that is larger than a
// piece.
class WeightReader {
 public:
  // `layers`: which linears are stored and computed how. `piece_bytes`: of StagedCopy, which the CPU's weights are then
  // brought by too; nothing: its own size.
  WeightReader(WeightStore store, const Placement& placement, LayerTable layers = {},
               std::optional<int64_t> piece_bytes = std::nullopt);
  // Random weights made on the device, every tensor that is asked for: for measuring speed without a checkpoint.
  explicit WeightReader(const Placement& placement, LayerTable layers = {});
  // Shapes and types alone, every tensor that is asked for, as they would be at `placement`: on libtorch's meta device,
  // where tensors have no memory. For knowing what a model takes before it is loaded.
  static WeightReader OfShapes(const Placement& placement, LayerTable layers = {});

  // Of every linear read from now on. SaturationCount has them under `component`.NAME; linears that are stacked, under
  // the first one's.
  void SetObservers(std::string component, LinearObservers observers) {
    component_ = std::move(component);
    observers_ = std::move(observers);
  }

  at::Tensor Tensor(const std::string& name, const std::vector<int64_t>& shape);
  // As Tensor, in a type of its own.
  at::Tensor TensorAs(const std::string& name, const std::vector<int64_t>& shape, at::ScalarType dtype);
  // As it is stored, on the host; not counted in bytes().
  at::Tensor Stored(const std::string& name, const std::vector<int64_t>& shape);

  // PREFIX.weight and PREFIX.bias, in whatever way they are stored (FindStoredWeight), and PREFIX.input_multiplier
  // where there is one (docs/CALIBRATION.md, "Rounding"): quantised where the table says so, else packed where that is
  // faster (Linear::Pack). A file that asks for high precision in a layer's product gets it, and so does a shape that
  // the device does not multiply in codes.
  Linear ReadLinear(const std::string& prefix, int64_t in, int64_t out, bool bias = true);
  // Several linears of one input as one: rows of the first, then of the second, … Neighbours of one scheme are one
  // product.
  struct Part {
    std::string prefix;
    int64_t out = 0;
  };
  Linear ReadStacked(const std::vector<Part>& parts, int64_t in, bool bias = true);
  // PREFIX.weight alone, whatever the table says, in a type of its own.
  Linear ReadLinearAs(const std::string& prefix, int64_t in, int64_t out, at::ScalarType dtype);
  // PREFIX.weight, in whatever way it is stored: rows to look up.
  at::Tensor ReadEmbedding(const std::string& prefix, int64_t rows, int64_t dim);
  // The rows `ids` (int64, of any shape) of the same, [..., dim]: the embedding itself stays on the host.
  at::Tensor ReadRows(const std::string& prefix, int64_t rows, int64_t dim, const at::Tensor& ids);
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
  // Every linear that was read, in order.
  const std::vector<LinearInfo>& linears() const { return linears_; }
  const Placement& placement() const { return placement_; }
  AttentionScheme attention() const { return layers_.attention(); }

 private:
  WeightReader(const Placement& placement, const at::Device& computes_on, LayerTable layers, at::Tensor random);
  absl::StatusOr<at::Tensor> Find(const std::string& name, const std::vector<int64_t>& shape) const;
  at::Tensor Place(const at::Tensor& stored, at::ScalarType dtype);
  at::Tensor PlaceStacked(const std::vector<at::Tensor>& parts, at::ScalarType dtype);
  at::Tensor PlaceWeights(const std::vector<StoredLinear>& parts, const at::Tensor& multiplier, at::ScalarType dtype);
  at::Tensor StageWeights(const std::vector<StoredLinear>& parts, const at::Tensor& multiplier, at::ScalarType dtype);
  StoredLinear ReadStored(const std::string& prefix, int64_t in, int64_t out);
  // Neighbours of one scheme: with their biases, or none.
  struct Run {
    LinearScheme scheme = LinearScheme::kHigh;
    std::vector<std::string> layers;
    std::vector<StoredLinear> weights;
    at::Tensor multiplier;  // InputQuantization's, or undefined
    std::vector<at::Tensor> biases;
  };
  std::vector<Run> ReadRuns(const std::vector<Part>& parts, int64_t in, bool bias);
  Linear ToLinear(const Run& run);
  QuantizedWeight PlaceCodes(const Run& run);
  QuantizedWeight StageCodes(const Run& run);
  at::Tensor ReadMultiplier(const std::string& prefix, int64_t in);
  std::optional<float> InputScaleOf(const std::vector<std::string>& layers) const;
  at::Tensor Random(const std::vector<int64_t>& shape) const;

  const std::optional<WeightStore> store_;  // nothing: random weights
  const Placement placement_;
  const at::Device computes_on_;  // the placement's, but for shapes alone
  const LayerTable layers_;
  QuantizationMetadata metadata_;
  const bool pack_;
  // Small normal numbers, on the device, or a meta tensor: shapes alone. Undefined where there is a store.
  const at::Tensor random_;
  std::unique_ptr<StagedCopy> staging_;  // null: weights are placed as they are
  std::string component_;
  LinearObservers observers_;
  absl::Status status_;
  int64_t bytes_ = 0;
  std::vector<LinearInfo> linears_;
};

}  // namespace fresco
