#include "pipeline/checkpoint/nonfinite.h"

#include <cstdint>
#include <cstring>

#include "absl/status/statusor.h"

namespace fresco {
namespace {

// Whether the masked bits of an element are all ones: an exponent of ones is infinity or NaN.
template <typename Bits>
bool AnyHasAll(const TensorView& tensor, Bits mask) {
  for (size_t at = 0; at + sizeof(Bits) <= tensor.bytes; at += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, tensor.data + at, sizeof(Bits));  // not always aligned
    if ((bits & mask) == mask) return true;
  }
  return false;
}

}  // namespace

bool HasNonFinite(const TensorView& tensor) {
  switch (tensor.dtype) {
    case DType::kF64:
      return AnyHasAll<uint64_t>(tensor, uint64_t{0x7ff} << 52);
    case DType::kF32:
      return AnyHasAll<uint32_t>(tensor, 0x7f80'0000);
    case DType::kBF16:
      return AnyHasAll<uint16_t>(tensor, 0x7f80);
    case DType::kF16:
      return AnyHasAll<uint16_t>(tensor, 0x7c00);
    case DType::kF8E5M2:
      return AnyHasAll<uint8_t>(tensor, 0x7c);
    case DType::kF8E4M3:  // no infinity, and its only NaN is all ones
      return AnyHasAll<uint8_t>(tensor, 0x7f);
    default:
      return false;
  }
}

std::optional<std::string> FirstNonFinite(const WeightStore& weights) {
  for (const std::string& name : weights.Names()) {
    const absl::StatusOr<TensorView> tensor = weights.Find(name);
    if (tensor.ok() && HasNonFinite(*tensor)) return name;
  }
  return std::nullopt;
}

}  // namespace fresco
