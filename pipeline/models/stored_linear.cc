#include "pipeline/models/stored_linear.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/models/tensor_view.h"

namespace fresco {
namespace {

at::Tensor ScaleRows(const std::vector<float>& scale, int64_t rows) {
  if (scale.empty()) return {};
  if (scale.size() == 1) return at::full({rows}, scale.front(), at::TensorOptions(at::kFloat));
  at::Tensor rows_scale = at::empty({rows}, at::TensorOptions(at::kFloat));
  std::copy(scale.begin(), scale.end(), rows_scale.mutable_data_ptr<float>());
  return rows_scale;
}

}  // namespace

absl::StatusOr<StoredLinear> ReadStoredLinear(const WeightStore& store, const QuantizationMetadata& metadata,
                                              std::string_view layer, int64_t out, int64_t in) {
  FRESCO_ASSIGN_OR_RETURN(StoredWeight weight, FindStoredWeight(store, metadata, layer, out, in));
  return StoredLinear{ToTensor(weight.weight), ScaleRows(weight.scale, out), weight.input_scale,
                      weight.full_precision_matmul, std::move(weight.source)};
}

at::Tensor Dequantize(const StoredLinear& stored, at::ScalarType dtype) {
  if (!stored.scale.defined()) return stored.values.to(dtype);
  return Dequantize(QuantizedWeight{stored.values, stored.scale}, dtype);
}

bool IsStoredAs(const StoredLinear& stored, LinearScheme scheme) {
  const at::ScalarType type = stored.values.scalar_type();
  return (IsFp8(scheme) && type == at::kFloat8_e4m3fn) || (IsInt8(scheme) && type == at::kChar);
}

QuantizedWeight ToScheme(const StoredLinear& stored, LinearScheme scheme) {
  if (IsStoredAs(stored, scheme)) {
    const int64_t rows = stored.values.size(0);
    return {stored.values, stored.scale.defined() ? stored.scale : at::ones({rows}, at::TensorOptions(at::kFloat))};
  }
  return QuantizeWeight(stored.scale.defined() ? Dequantize(stored, at::kFloat) : stored.values, scheme);
}

}  // namespace fresco
