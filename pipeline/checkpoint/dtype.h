// The element types that safetensors files hold.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace fresco {

enum class DType { kBool, kU8, kI8, kF8E4M3, kF8E5M2, kI16, kU16, kF16, kBF16, kI32, kU32, kF32, kI64, kU64, kF64 };

// The format's own name: "F8_E4M3", "BF16", …
std::string_view DTypeName(DType dtype);

// Nothing where `name` is none of the types above.
std::optional<DType> ParseDType(std::string_view name);

int64_t DTypeBytes(DType dtype);

}  // namespace fresco
