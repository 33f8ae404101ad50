#include "pipeline/checkpoint/dtype.h"

#include <array>
#include <utility>

namespace fresco {
namespace {

struct Row {
  DType dtype;
  std::string_view name;
  int64_t bytes;
};

// In the order of the enumeration.
constexpr std::array<Row, 15> kRows = {{
    {DType::kBool, "BOOL", 1},
    {DType::kU8, "U8", 1},
    {DType::kI8, "I8", 1},
    {DType::kF8E4M3, "F8_E4M3", 1},
    {DType::kF8E5M2, "F8_E5M2", 1},
    {DType::kI16, "I16", 2},
    {DType::kU16, "U16", 2},
    {DType::kF16, "F16", 2},
    {DType::kBF16, "BF16", 2},
    {DType::kI32, "I32", 4},
    {DType::kU32, "U32", 4},
    {DType::kF32, "F32", 4},
    {DType::kI64, "I64", 8},
    {DType::kU64, "U64", 8},
    {DType::kF64, "F64", 8},
}};

constexpr bool InOrder() {
  for (size_t i = 0; i < kRows.size(); ++i) {
    if (kRows[i].dtype != static_cast<DType>(i)) return false;
  }
  return true;
}
static_assert(InOrder());

}  // namespace

std::string_view DTypeName(DType dtype) {
  return kRows[static_cast<size_t>(dtype)].name;
}

int64_t DTypeBytes(DType dtype) {
  return kRows[static_cast<size_t>(dtype)].bytes;
}

std::optional<DType> ParseDType(std::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

}  // namespace fresco
