#include "tests/support/reference_tensor.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

at::ScalarType ScalarTypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return at::kFloat;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kI64:
      return at::kLong;
    case DType::kU8:
      return at::kByte;
    default:
      throw std::runtime_error(StrCat("reference results hold no ", DTypeName(dtype)));
  }
}

bool Comparable(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && at::isfinite(a).all().item<bool>() && at::isfinite(b).all().item<bool>();
}

double MeanSquare(const at::Tensor& x) {
  return x.to(at::kDouble).square().mean().item<double>();
}

}  // namespace

at::Tensor TensorOf(const ReferenceResult& result, std::string_view name) {
  const TensorView view = result.View(name);
  at::Tensor tensor = at::empty(view.shape, at::TensorOptions(ScalarTypeOf(view.dtype)));
  std::memcpy(tensor.mutable_data_ptr(), view.data, view.bytes);
  return tensor;
}

double LargestDifference(const at::Tensor& a, const at::Tensor& b) {
  if (!Comparable(a, b)) return std::numeric_limits<double>::infinity();
  return (a.to(at::kFloat) - b.to(at::kFloat)).abs().max().item<double>();
}

double SignalToError(const at::Tensor& actual, const at::Tensor& expected) {
  if (!Comparable(actual, expected)) return -std::numeric_limits<double>::infinity();
  const double error = MeanSquare(actual.to(at::kDouble) - expected.to(at::kDouble));
  return error == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(MeanSquare(expected) / error);
}

}  // namespace fresco
