#include "pipeline/checkpoint/nonfinite.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/pipeline/checkpoint/file_maker.h"

namespace fresco {
namespace {

struct Case {
  std::string name;
  DType dtype;
  std::vector<uint8_t> element;  // little-endian
  bool nonfinite;
};

class HasNonFiniteTest : public ::testing::TestWithParam<Case> {};

// Bit patterns: IEEE 754, bfloat16, and the OCP 8-bit formats (E4M3 has no infinity: 0x7e is 448).
INSTANTIATE_TEST_SUITE_P(
    Values, HasNonFiniteTest,
    ::testing::Values(Case{"F64Nan", DType::kF64, {0, 0, 0, 0, 0, 0, 0xf8, 0x7f}, true},
                      Case{"F64Largest", DType::kF64, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xef, 0x7f}, false},
                      Case{"F32Infinity", DType::kF32, {0, 0, 0x80, 0x7f}, true},
                      Case{"F32MinusInfinity", DType::kF32, {0, 0, 0x80, 0xff}, true},
                      Case{"F32Nan", DType::kF32, {1, 0, 0x80, 0x7f}, true},
                      Case{"F32Largest", DType::kF32, {0xff, 0xff, 0x7f, 0x7f}, false},
                      Case{"Bf16Nan", DType::kBF16, {0xc0, 0x7f}, true},
                      Case{"Bf16Largest", DType::kBF16, {0x7f, 0x7f}, false},
                      Case{"F16Infinity", DType::kF16, {0, 0x7c}, true},
                      Case{"F16Largest", DType::kF16, {0xff, 0x7b}, false},
                      Case{"E5M2Nan", DType::kF8E5M2, {0x7d}, true}, Case{"E5M2Largest", DType::kF8E5M2, {0x7b}, false},
                      Case{"E4M3Nan", DType::kF8E4M3, {0xff}, true}, Case{"E4M3Largest", DType::kF8E4M3, {0x7e}, false},
                      Case{"Integer", DType::kI32, {0xff, 0xff, 0xff, 0x7f}, false}),
    [](const auto& info) { return info.param.name; });

TEST_P(HasNonFiniteTest, SeesIt) {
  // The last of three, not aligned to its size.
  std::vector<uint8_t> bytes(1 + 2 * GetParam().element.size(), 0);
  bytes.insert(bytes.end(), GetParam().element.begin(), GetParam().element.end());
  TensorView tensor;
  tensor.dtype = GetParam().dtype;
  tensor.shape = {3};
  tensor.data = reinterpret_cast<const std::byte*>(bytes.data()) + 1;
  tensor.bytes = bytes.size() - 1;
  EXPECT_EQ(HasNonFinite(tensor), GetParam().nonfinite);
}

TEST(FirstNonFinite, NamesTheTensor) {
  TempFolder folder;
  const auto header = [](const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":")" + second +
           R"(","shape":[1],"data_offsets":[2,4]}})";
  };
  const std::string data = "\x7f\x7f\xc0\x7f";
  folder.Write("nan.safetensors", SafetensorsBytes(header("BF16"), data));
  folder.Write("fine.safetensors", SafetensorsBytes(header("U16"), data));
  folder.Write("unknown.safetensors", SafetensorsBytes(header("BF17"), data));
  EXPECT_EQ(FirstNonFinite(WeightStore::Open(folder.path(), "nan").value()), "b");
  EXPECT_EQ(FirstNonFinite(WeightStore::Open(folder.path(), "fine").value()), std::nullopt);
  EXPECT_EQ(FirstNonFinite(WeightStore::Open(folder.path(), "unknown").value()), std::nullopt);
}

}  // namespace
}  // namespace fresco
