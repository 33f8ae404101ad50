#include "pipeline/models/tensor_view.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace fresco {

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

at::Tensor ToTensor(const TensorView& view) {
  const at::ScalarType dtype = ToScalarType(view.dtype);
  if (!view.AlignedToElement()) {
    at::Tensor copy = at::empty(view.shape, dtype);
    std::memcpy(copy.mutable_data_ptr(), view.data, view.bytes);
    return copy;
  }
  auto keep = [mapping = view.mapping](void*) {};
  return at::from_blob(const_cast<std::byte*>(view.data), view.shape, std::move(keep), at::TensorOptions(dtype));
}

}  // namespace fresco
