#include "pipeline/models/weight_reader.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "pipeline/base/memory_scope.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/models/tensor_view.h"
#include "pipeline/precision/quantized_linear.h"
#include "pipeline/precision/row_codes.h"

namespace fresco {
namespace {

constexpr int64_t kRandomNumbers = (1 << 20) + 7;  // odd, so that rows of a weight differ
constexpr double kRandomDeviation = 0.02;
constexpr int64_t kFloatBytes = 4;

// Fails for values that need a scale to be understood. A layer's scale is its weight's: a bias has none.
absl::Status CheckNotQuantised(const WeightStore& store, const std::string& name, DType dtype) {
  if (!at::isFloatingType(ToScalarType(dtype))) {
    return absl::UnimplementedError(StrCat("stored as ", DTypeName(dtype), ": integer weights are not supported"));
  }
  if (!name.ends_with(".weight")) return absl::OkStatus();
  const std::string layer = name.substr(0, name.rfind('.'));
  for (const char* mark : {".scale_weight", ".weight_scale", ".weight._scale", ".comfy_quant"}) {
    if (store.Contains(layer + mark)) {
      return absl::UnimplementedError(StrCat("quantised with scales (", layer, mark, "), which is not supported"));
    }
  }
  return absl::OkStatus();
}

bool Same(const at::Tensor& a, const at::Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || at::equal(a, b));
}

// The weight that is multiplied with inputs as they are.
at::Tensor HighWeight(const StoredLinear& stored, const at::Tensor& multiplier, at::ScalarType dtype) {
  if (multiplier.defined()) return (Dequantize(stored, at::kFloat) * multiplier).to(dtype);
  return stored.scale.defined() ? Dequantize(stored, dtype) : stored.values;
}

int64_t RowsOf(const std::vector<StoredLinear>& parts) {
  int64_t rows = 0;
  for (const StoredLinear& part : parts) rows += part.values.size(0);
  return rows;
}

// Rows [first, first + count) of what is understood row by row.
StoredLinear Rows(const StoredLinear& stored, int64_t first, int64_t count) {
  StoredLinear rows;
  rows.values = stored.values.narrow(0, first, count);
  if (stored.scale.defined()) rows.scale = stored.scale.narrow(0, first, count);
  return rows;
}

}  // namespace

void WeightReader::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

WeightReader::WeightReader(WeightStore store, const Placement& placement, LayerTable layers,
                           std::optional<int64_t> piece_bytes)
    : store_(std::move(store)),
      placement_(placement),
      computes_on_(placement.device),
      layers_(std::move(layers)),
      pack_(Linear::CanPack(placement.device, placement.dtype)) {
  if (piece_bytes.has_value() || !placement.device.is_cpu())
    staging_ = std::make_unique<StagedCopy>(placement.device, piece_bytes.value_or(StagedCopy::kPieceBytes));
  const auto found = store_->metadata().find(std::string(kQuantizationMetadataKey));
  if (found == store_->metadata().end()) return;
  absl::StatusOr<QuantizationMetadata> metadata = QuantizationMetadata::Parse(found->second, store_->path());
  Fail(metadata.status());
  if (metadata.ok()) metadata_ = *std::move(metadata);
}

WeightReader::WeightReader(const Placement& placement, const at::Device& computes_on, LayerTable layers,
                           at::Tensor random)
    : placement_(placement),
      computes_on_(computes_on),
      layers_(std::move(layers)),
      pack_(Linear::CanPack(placement.device, placement.dtype)),
      random_(std::move(random)) {}

WeightReader::WeightReader(const Placement& placement, LayerTable layers)
    : WeightReader(placement, placement.device, std::move(layers),
                   at::randn({kRandomNumbers}, at::TensorOptions(placement.device).dtype(at::kFloat))
                       .mul_(kRandomDeviation)
                       .to(placement.dtype)) {}

WeightReader WeightReader::OfShapes(const Placement& placement, LayerTable layers) {
  return {{at::kMeta, placement.dtype},
          placement.device,
          std::move(layers),
          at::empty({0}, at::TensorOptions(at::kMeta).dtype(placement.dtype))};
}

// The same numbers over and over: drawing billions would take longer than the measurement they are for.
at::Tensor WeightReader::Random(const std::vector<int64_t>& shape) const {
  if (random_.is_meta()) return at::empty(shape, random_.options());
  at::Tensor tensor = at::empty(shape, random_.options());
  const at::Tensor flat = tensor.view({-1});
  for (int64_t begin = 0; begin < flat.numel(); begin += kRandomNumbers) {
    const int64_t count = std::min(kRandomNumbers, flat.numel() - begin);
    flat.narrow(0, begin, count).copy_(random_.narrow(0, 0, count));
  }
  return tensor;
}

absl::StatusOr<at::Tensor> WeightReader::Find(const std::string& name, const std::vector<int64_t>& shape) const {
  if (!store_) return Random(shape);
  absl::StatusOr<TensorView> view = store_->Find(name);
  if (absl::IsNotFound(view.status())) {
    return absl::InvalidArgumentError(
        StrCat(store_->path(), ": tensor \"", name, "\" of shape ", ShapeString(shape), " is missing"));
  }
  if (!view.ok()) return view.status();
  const std::string where = store_->Where(name);
  if (view->shape != shape) {
    return absl::InvalidArgumentError(StrCat(where, ": shape ", ShapeString(view->shape), " where the configuration ",
                                             "asks for ", ShapeString(shape)));
  }
  if (absl::Status plain = CheckNotQuantised(*store_, name, view->dtype); !plain.ok()) return Annotate(plain, where);
  return ToTensor(*view);
}

at::Tensor WeightReader::Place(const at::Tensor& stored, at::ScalarType dtype) {
  at::Tensor placed;
  if (staging_ == nullptr) {
    placed = stored.to(placement_.device, dtype);
  } else {
    placed = at::empty(stored.sizes(), at::TensorOptions(placement_.device).dtype(dtype));
    staging_->Write(placed, stored);
  }
  bytes_ += static_cast<int64_t>(placed.nbytes());
  return placed;
}

at::Tensor WeightReader::Stored(const std::string& name, const std::vector<int64_t>& shape) {
  if (!status_.ok()) return {};
  absl::StatusOr<at::Tensor> tensor = Find(name, shape);
  if (tensor.ok()) return *std::move(tensor);
  Fail(tensor.status());
  return {};
}

at::Tensor WeightReader::TensorAs(const std::string& name, const std::vector<int64_t>& shape, at::ScalarType dtype) {
  const MemoryNameScope memory(name);
  const at::Tensor stored = Stored(name, shape);
  return stored.defined() ? Place(stored, dtype) : stored;
}

at::Tensor WeightReader::Tensor(const std::string& name, const std::vector<int64_t>& shape) {
  return TensorAs(name, shape, placement_.dtype);
}

Linear WeightReader::ReadLinear(const std::string& prefix, int64_t in, int64_t out, bool bias) {
  return ReadStacked({{prefix, out}}, in, bias);
}

// They have one input: the largest scale is right for all.
std::optional<float> WeightReader::InputScaleOf(const std::vector<std::string>& layers) const {
  std::optional<float> largest;
  for (const std::string& layer : layers) {
    const std::optional<float> scale = layers_.InputScaleOf(layer);
    if (!scale) return std::nullopt;
    largest = std::max(largest.value_or(0), *scale);
  }
  return largest;
}

// Ours: what a calibration for int8 has moved from the inputs into the weight.
at::Tensor WeightReader::ReadMultiplier(const std::string& prefix, int64_t in) {
  const std::string name = prefix + ".input_multiplier";
  if (!store_ || !store_->Contains(name)) return {};
  const at::Tensor stored = Stored(name, {in});
  if (!stored.defined()) return {};
  const at::Tensor multiplier = stored.to(at::kFloat);
  if (at::logical_and(multiplier > 0, at::isfinite(multiplier)).all().item<bool>()) return multiplier;
  Fail(absl::InvalidArgumentError(StrCat(store_->Where(name), ": its values are not all finite and above 0")));
  return {};
}

Linear WeightReader::ReadLinearAs(const std::string& prefix, int64_t in, int64_t out, at::ScalarType dtype) {
  const MemoryNameScope memory(prefix);
  const StoredLinear stored = ReadStored(prefix, in, out);
  if (!status_.ok()) return {};
  linears_.push_back({prefix, LinearScheme::kHigh, stored.source, false});
  return Pack({PlaceWeights({stored}, {}, dtype), {}, nullptr, nullptr});
}

at::Tensor WeightReader::ReadEmbedding(const std::string& prefix, int64_t rows, int64_t dim) {
  const MemoryNameScope memory(prefix);
  const StoredLinear stored = ReadStored(prefix, dim, rows);
  return status_.ok() ? PlaceWeights({stored}, {}, placement_.dtype) : at::Tensor();
}

at::Tensor WeightReader::ReadRows(const std::string& prefix, int64_t rows, int64_t dim, const at::Tensor& ids) {
  const StoredLinear stored = ReadStored(prefix, dim, rows);
  if (!status_.ok()) return {};
  const at::Tensor looked_up = ids.to(at::kCPU);
  // Of plain ones a row is the same before and after it is brought to the type.
  const bool plain = !stored.scale.defined() && stored.values.element_size() > 1;
  const at::Tensor table = plain ? stored.values : Dequantize(stored, placement_.dtype);
  return at::embedding(table, looked_up).to(placement_.device, placement_.dtype);
}

Linear WeightReader::Pack(const Linear& linear) const {
  return pack_ && status_.ok() ? linear.Pack() : linear;
}

StoredLinear WeightReader::ReadStored(const std::string& prefix, int64_t in, int64_t out) {
  if (!status_.ok()) return {};
  if (!store_)
    return {.values = Random({out, in}),
            .scale = {},
            .input_scale = {},
            .source = random_.is_meta() ? "its file" : "random"};
  absl::StatusOr<StoredLinear> stored = ReadStoredLinear(*store_, metadata_, prefix, out, in);
  if (stored.ok()) return *std::move(stored);
  Fail(stored.status());
  return {};
}

std::vector<WeightReader::Run> WeightReader::ReadRuns(const std::vector<Part>& parts, int64_t in, bool bias) {
  std::vector<Run> runs;
  for (const Part& part : parts) {
    StoredLinear stored = ReadStored(part.prefix, in, part.out);
    const at::Tensor stored_bias = bias ? Stored(part.prefix + ".bias", {part.out}) : at::Tensor();
    const at::Tensor multiplier = ReadMultiplier(part.prefix, in);
    if (!status_.ok()) return {};
    LinearScheme scheme = layers_.Of(part.prefix);
    if (stored.full_precision_matmul || !QuantizedLinear::MultipliesCodes(computes_on_, scheme, in, part.out))
      scheme = StorageOnly(scheme);
    linears_.push_back(
        {part.prefix, scheme, stored.source, scheme != LinearScheme::kHigh && IsStoredAs(stored, scheme)});
    if (runs.empty() || runs.back().scheme != scheme || !Same(runs.back().multiplier, multiplier))
      runs.push_back({.scheme = scheme, .layers = {}, .weights = {}, .multiplier = multiplier, .biases = {}});
    runs.back().layers.push_back(part.prefix);
    runs.back().weights.push_back(std::move(stored));
    if (bias) runs.back().biases.push_back(stored_bias);
  }
  return runs;
}

Linear WeightReader::ToLinear(const Run& run) {
  const at::Tensor bias = run.biases.empty() ? at::Tensor() : PlaceStacked(run.biases, placement_.dtype);
  if (run.scheme == LinearScheme::kHigh)
    return Pack({PlaceWeights(run.weights, run.multiplier, placement_.dtype), bias, nullptr, nullptr});
  QuantizedWeight placed = PlaceCodes(run);
  bytes_ += placed.bytes();
  InputQuantization input;
  if (run.multiplier.defined()) {
    input.multiplier = run.multiplier.to(placement_.device);
  } else {
    input.scale = InputScaleOf(run.layers);  // of inputs as they are
  }
  input.overflow_guard = layers_.overflow_guard();
  input.layer = StrCat(component_, component_.empty() ? "" : ".", run.layers.front());
  input.saturation = observers_.saturation;
  if (placement_.kernels != nullptr && QuantisesActivations(run.scheme)) {
    const ProductKind kind{run.scheme,           placement_.dtype, placed.codes.size(1),
                           placed.codes.size(0), bias.defined(),   QuantizedLinear::HasOneScale(input)};
    placement_.kernels->choices.Want(ProductTask(kind, /*rows=*/0));
  }
  return {{},
          {},
          std::make_shared<QuantizedLinear>(std::move(placed), bias, run.scheme, std::move(input), placement_.kernels),
          nullptr};
}

Linear WeightReader::ReadStacked(const std::vector<Part>& parts, int64_t in, bool bias) {
  const MemoryNameScope memory(parts.front().prefix);
  std::vector<Linear> linears;
  for (const Run& run : ReadRuns(parts, in, bias)) linears.push_back(ToLinear(run));
  if (!status_.ok()) return {};
  Linear whole = linears.front();
  if (linears.size() > 1) whole = {{}, {}, nullptr, std::make_shared<std::vector<Linear>>(std::move(linears))};
  if (observers_.probe == nullptr) return whole;
  LinearTap tap{{}, {}, observers_.probe};
  for (const Part& part : parts) {
    tap.layers.push_back(part.prefix);
    tap.outputs.push_back(part.out);
  }
  whole.tap = std::make_shared<const LinearTap>(std::move(tap));
  return whole;
}

// Rows of the first, then of the second, …
at::Tensor WeightReader::PlaceStacked(const std::vector<at::Tensor>& parts, at::ScalarType dtype) {
  if (parts.size() == 1) return Place(parts.front(), dtype);
  std::vector<int64_t> shape = parts.front().sizes().vec();
  shape[0] = 0;
  for (const at::Tensor& part : parts) shape[0] += part.size(0);
  at::Tensor stacked = at::empty(shape, at::TensorOptions(placement_.device).dtype(dtype));
  int64_t row = 0;
  for (const at::Tensor& part : parts) {
    const at::Tensor rows = stacked.narrow(0, row, part.size(0));
    if (staging_ == nullptr) {
      rows.copy_(part);
    } else {
      staging_->Write(rows, part);
    }
    row += part.size(0);
  }
  bytes_ += static_cast<int64_t>(stacked.nbytes());
  return stacked;
}

at::Tensor WeightReader::PlaceWeights(const std::vector<StoredLinear>& parts, const at::Tensor& multiplier,
                                      at::ScalarType dtype) {
  if (staging_ != nullptr) return StageWeights(parts, multiplier, dtype);
  std::vector<at::Tensor> weights;
  for (const StoredLinear& stored : parts) weights.push_back(HighWeight(stored, multiplier, dtype));
  return PlaceStacked(weights, dtype);
}

at::Tensor WeightReader::StageWeights(const std::vector<StoredLinear>& parts, const at::Tensor& multiplier,
                                      at::ScalarType dtype) {
  const int64_t in = parts.front().values.size(1);
  at::Tensor placed = at::empty({RowsOf(parts), in}, at::TensorOptions(placement_.device).dtype(dtype));
  int64_t row = 0;
  for (const StoredLinear& stored : parts) {
    // Of what HighWeight makes on its way there is at most one more in fp32.
    const int64_t floats = multiplier.defined() ? 2 : stored.scale.defined() ? 1 : 0;
    staging_->Write(
        placed.narrow(0, row, stored.values.size(0)),
        [&](int64_t first, const at::Tensor& piece) {
          piece.copy_(HighWeight(Rows(stored, first, piece.size(0)), multiplier, dtype));
        },
        floats * in * kFloatBytes);
    row += stored.values.size(0);
  }
  bytes_ += static_cast<int64_t>(placed.nbytes());
  return placed;
}

QuantizedWeight WeightReader::PlaceCodes(const Run& run) {
  if (staging_ != nullptr) return StageCodes(run);
  std::vector<QuantizedWeight> quantized;
  for (const StoredLinear& stored : run.weights) quantized.push_back(ToScheme(stored, run.scheme));
  const QuantizedWeight stacked = Stack(quantized);
  return {stacked.codes.to(placement_.device), stacked.scale.to(placement_.device)};
}

// Each row has its own scale, so that pieces have the codes of the whole.
QuantizedWeight WeightReader::StageCodes(const Run& run) {
  const int64_t rows = RowsOf(run.weights), in = run.weights.front().values.size(1);
  const auto options = at::TensorOptions(placement_.device);
  QuantizedWeight placed{at::empty({rows, in}, options.dtype(CodeType(run.scheme))),
                         at::empty({rows}, options.dtype(at::kFloat))};
  const at::Tensor scales = at::empty({rows}, at::TensorOptions(at::kFloat));
  int64_t row = 0;
  for (const StoredLinear& stored : run.weights) {
    staging_->Write(
        placed.codes.narrow(0, row, stored.values.size(0)),
        [&](int64_t first, const at::Tensor& piece) {
          const QuantizedWeight codes = ToScheme(Rows(stored, first, piece.size(0)), run.scheme);
          piece.copy_(codes.codes);
          scales.narrow(0, row + first, piece.size(0)).copy_(codes.scale);
        },
        IsStoredAs(stored, run.scheme) ? 0 : in * kFloatBytes);
    row += stored.values.size(0);
  }
  staging_->Write(placed.scale, scales);
  return placed;
}

Norm WeightReader::ReadNorm(const std::string& prefix, int64_t dim) {
  return {Tensor(prefix + ".weight", {dim}), Tensor(prefix + ".bias", {dim})};
}

Conv WeightReader::ReadConv(const std::string& prefix, int64_t in, int64_t out, int64_t kernel) {
  const MemoryNameScope memory(prefix);
  const at::Tensor weight = Tensor(prefix + ".weight", {out, in, kernel, kernel});
  return {weight.defined() ? weight.contiguous(at::MemoryFormat::ChannelsLast) : weight,
          Tensor(prefix + ".bias", {out})};
}

}  // namespace fresco
