#include "pipeline/models/weight_reader.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/statusor.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr int64_t kRandomNumbers = (1 << 20) + 7;  // odd, so that rows of a weight differ
constexpr double kRandomDeviation = 0.02;

at::ScalarType ToScalarType(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return at::kBool;
    case DType::kU8:
      return at::kByte;
    case DType::kI8:
      return at::kChar;
    case DType::kF8E4M3:
      return at::kFloat8_e4m3fn;
    case DType::kF8E5M2:
      return at::kFloat8_e5m2;
    case DType::kI16:
      return at::kShort;
    case DType::kU16:
      return at::kUInt16;
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kI32:
      return at::kInt;
    case DType::kU32:
      return at::kUInt32;
    case DType::kF32:
      return at::kFloat;
    case DType::kI64:
      return at::kLong;
    case DType::kU64:
      return at::kUInt64;
    case DType::kF64:
      return at::kDouble;
  }
  std::abort();
}

// The file's own memory where it is aligned, else a copy.
at::Tensor ViewOf(const TensorView& view) {
  const at::ScalarType dtype = ToScalarType(view.dtype);
  if (!view.AlignedToElement()) {
    at::Tensor copy = at::empty(view.shape, dtype);
    std::memcpy(copy.mutable_data_ptr(), view.data, view.bytes);
    return copy;
  }
  auto keep = [mapping = view.mapping](void*) {};
  return at::from_blob(const_cast<std::byte*>(view.data), view.shape, std::move(keep), at::TensorOptions(dtype));
}

// Fails for weights whose values need a scale to be understood.
absl::Status CheckNotQuantised(const WeightStore& store, const std::string& name, DType dtype) {
  if (!at::isFloatingType(ToScalarType(dtype))) {
    return absl::UnimplementedError(StrCat("stored as ", DTypeName(dtype), ": integer weights are not supported"));
  }
  if (dtype != DType::kF8E4M3 && dtype != DType::kF8E5M2) return absl::OkStatus();
  const std::string layer = name.substr(0, name.rfind('.'));
  for (const char* mark : {".scale_weight", ".weight_scale", ".comfy_quant"}) {
    if (store.Contains(layer + mark)) {
      return absl::UnimplementedError(StrCat("quantised with scales (", layer, mark, "), which is not supported"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

void WeightReader::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

WeightReader::WeightReader(WeightStore store, const Placement& placement)
    : store_(std::move(store)), placement_(placement), pack_(Linear::CanPack(placement.device, placement.dtype)) {}

WeightReader::WeightReader(const Placement& placement)
    : placement_(placement),
      pack_(Linear::CanPack(placement.device, placement.dtype)),
      random_(at::randn({kRandomNumbers}, at::TensorOptions(placement.device).dtype(at::kFloat))
                  .mul_(kRandomDeviation)
                  .to(placement.dtype)) {}

// The same numbers over and over: drawing billions would take longer than the measurement they are for.
at::Tensor WeightReader::Random(const std::vector<int64_t>& shape) const {
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
  const std::string where = StrCat(store_->PathOf(name), ": tensor \"", name, "\"");
  if (view->shape != shape) {
    return absl::InvalidArgumentError(StrCat(where, ": shape ", ShapeString(view->shape), " where the configuration ",
                                             "asks for ", ShapeString(shape)));
  }
  if (absl::Status plain = CheckNotQuantised(*store_, name, view->dtype); !plain.ok()) return Annotate(plain, where);
  return ViewOf(*view);
}

at::Tensor WeightReader::Place(const at::Tensor& stored, at::ScalarType dtype) {
  at::Tensor placed = stored.to(placement_.device, dtype);
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
  const at::Tensor stored = Stored(name, shape);
  return stored.defined() ? Place(stored, dtype) : stored;
}

at::Tensor WeightReader::Tensor(const std::string& name, const std::vector<int64_t>& shape) {
  return TensorAs(name, shape, placement_.dtype);
}

Linear WeightReader::ReadLinear(const std::string& prefix, int64_t in, int64_t out, bool bias) {
  return Pack({Tensor(prefix + ".weight", {out, in}), bias ? Tensor(prefix + ".bias", {out}) : at::Tensor()});
}

Linear WeightReader::ReadLinearAs(const std::string& prefix, int64_t in, int64_t out, at::ScalarType dtype) {
  return Pack({TensorAs(prefix + ".weight", {out, in}, dtype), {}});
}

Linear WeightReader::Pack(const Linear& linear) const {
  return pack_ && status_.ok() ? linear.Pack() : linear;
}

Linear WeightReader::ReadStacked(const std::vector<Part>& parts, int64_t in, bool bias) {
  std::vector<at::Tensor> weights, biases;
  for (const Part& part : parts) {
    weights.push_back(Stored(part.prefix + ".weight", {part.out, in}));
    if (bias) biases.push_back(Stored(part.prefix + ".bias", {part.out}));
  }
  if (!status_.ok()) return {};
  return Pack({Stack(weights), bias ? Stack(biases) : at::Tensor()});
}

at::Tensor WeightReader::Stack(const std::vector<at::Tensor>& parts) {
  std::vector<int64_t> shape = parts.front().sizes().vec();
  shape[0] = 0;
  for (const at::Tensor& part : parts) shape[0] += part.size(0);
  at::Tensor stacked = at::empty(shape, at::TensorOptions(placement_.device).dtype(placement_.dtype));
  int64_t row = 0;
  for (const at::Tensor& part : parts) {
    stacked.narrow(0, row, part.size(0)).copy_(part);
    row += part.size(0);
  }
  bytes_ += static_cast<int64_t>(stacked.nbytes());
  return stacked;
}

Norm WeightReader::ReadNorm(const std::string& prefix, int64_t dim) {
  return {Tensor(prefix + ".weight", {dim}), Tensor(prefix + ".bias", {dim})};
}

Conv WeightReader::ReadConv(const std::string& prefix, int64_t in, int64_t out, int64_t kernel) {
  const at::Tensor weight = Tensor(prefix + ".weight", {out, in, kernel, kernel});
  return {weight.defined() ? weight.contiguous(at::MemoryFormat::ChannelsLast) : weight,
          Tensor(prefix + ".bias", {out})};
}

}  // namespace fresco
