// Weights that cannot be understood are refused, with tensor and file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/pipeline/checkpoint/stored_weight_maker.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct BadCase {
  std::string name;
  std::vector<FileTensor> tensors;
  std::string tensor;  // that the message names
  std::string message;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
  std::string metadata = {};
};

void PrintTo(const BadCase& bad, std::ostream* out) {
  *out << bad.name;
}

class RefusalTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(RefusalTest, NamesTensorAndFile) {
  const BadCase& bad = GetParam();
  TempFolder folder;
  const WeightStore store = Open(folder, bad.tensors);
  const absl::Status status = FindStoredWeight(store, Metadata(bad.metadata), "b.fc", kOut, kIn).status();
  EXPECT_EQ(status.code(), bad.code) << status;
  EXPECT_THAT(Message(status), AllOf(HasSubstr(folder.path() + "/model.safetensors"),
                                     HasSubstr("\"" + bad.tensor + "\""), HasSubstr(bad.message)));
}

std::string BadNameOf(const ::testing::TestParamInfo<BadCase>& info) {
  return info.param.name;
}

constexpr absl::StatusCode kUnimplemented = absl::StatusCode::kUnimplemented;
const FileTensor kE4m3 = WeightOf("b.fc.weight", "F8_E4M3");
const FileTensor kScale = F32("b.fc.weight_scale", "[]", {0.5f});

INSTANTIATE_TEST_SUITE_P(
    Weight, RefusalTest,
    ::testing::Values(
        BadCase{"Missing", {}, "b.fc.weight", "of shape [3, 2] is missing"},
        BadCase{"MissingThoughDescribed", {kE4m3Says, kScale}, "b.fc.weight", "is missing"},
        BadCase{"Transposed", {WeightOf("b.fc.weight", "F8_E4M3", 1, "[2,3]")}, "b.fc.weight", "asks for [3, 2]"},
        BadCase{"Flat", {WeightOf("b.fc.weight", "F32", 4, "[6]")}, "b.fc.weight", "shape [6]"},
        BadCase{"Int8WithNoScale", {WeightOf("b.fc.weight", "I8")}, "b.fc.weight_scale", "is missing"},
        BadCase{"U8", {WeightOf("b.fc.weight", "U8")}, "b.fc.weight", "stored as U8", kUnimplemented},
        BadCase{"UnknownType", {WeightOf("b.fc.weight", "F8_E4M3FNUZ")}, "b.fc.weight", "F8_E4M3FNUZ", kUnimplemented},
        BadCase{"PlainWithAScale", {WeightOf("b.fc.weight", "BF16", 2), kScale}, "b.fc.weight", "stored as BF16"},
        BadCase{"TwoScales",
                {kE4m3, kScale, F32("b.fc.scale_weight", "[]", {0.5f})},
                "b.fc.scale_weight",
                "two scales, \"b.fc.weight_scale\""},
        BadCase{"TwoScalesThoughDescribed",
                {kE4m3Says, kE4m3, kScale, F32("b.fc.scale_weight", "[]", {0.5f})},
                "b.fc.scale_weight",
                "two scales"},
        BadCase{"TwoWeights",
                {kE4m3, WeightOf("b.fc.weight._data", "I8"), F32("b.fc.weight._scale", "[3,1]", {1, 1, 1})},
                "b.fc.weight._data",
                "two weights"},
        BadCase{"QuantosScaleOfAnotherWeight",
                {kE4m3, F32("b.fc.weight._scale", "[3,1]", {1, 1, 1})},
                "b.fc.weight",
                "has \"b.fc.weight._scale\", the scale of"},
        BadCase{"OldInputScaleAlone",
                {kE4m3, F32("b.fc.scale_input", "[]", {0.5f})},
                "b.fc.scale_weight",
                "is missing: \"b.fc.scale_input\" is there"},
        BadCase{"InputScaleAlone",
                {kE4m3, F32("b.fc.input_scale", "[]", {0.5f})},
                "b.fc.weight_scale",
                "is missing: \"b.fc.input_scale\" is there"}),
    BadNameOf);

INSTANTIATE_TEST_SUITE_P(
    Marker, RefusalTest,
    ::testing::Values(
        BadCase{"ScaleMissing", {Marker("F8_E4M3", 0), kE4m3}, "b.fc.scale_weight", "is missing: \"scaled_fp8\" says"},
        BadCase{"E5M2UnderE4M3",
                {Marker("F8_E4M3", 0), WeightOf("b.fc.weight", "F8_E5M2"), F32("b.fc.scale_weight", "[]", {0.5f})},
                "b.fc.weight",
                "stored as F8_E5M2, but \"scaled_fp8\" says F8_E4M3"},
        BadCase{"Int8UnderE4M3",
                {Marker("F8_E4M3", 0), WeightOf("b.fc.weight", "I8"), F32("b.fc.scale_weight", "[]", {0.5f})},
                "b.fc.weight",
                "stored as I8, but \"scaled_fp8\" says"},
        BadCase{"ScaledBf16",
                {Marker("F8_E4M3", 0), WeightOf("b.fc.weight", "BF16", 2), F32("b.fc.scale_weight", "[]", {0.5f})},
                "b.fc.weight",
                "stored as BF16, but \"scaled_fp8\" says"},
        BadCase{"Int8WithAnOldScale",
                {WeightOf("b.fc.weight", "I8"), F32("b.fc.scale_weight", "[]", {0.5f})},
                "b.fc.weight",
                "a scale of FP8 weights"},
        BadCase{"OfNoFp8Type", {Marker("U8", 1), kE4m3}, "scaled_fp8", "U8, names no FP8 format"},
        BadCase{"InputScaleNegative",
                {Marker("F8_E4M3", 0), kE4m3, F32("b.fc.scale_weight", "[]", {0.5f}),
                 F32("b.fc.scale_input", "[]", {-1.0f})},
                "b.fc.scale_input",
                "no finite positive scale"}),
    BadNameOf);

BadCase BadScale(const std::string& name, const FileTensor& scale, const std::string& message) {
  return {name, {kE4m3Says, kE4m3, scale}, "b.fc.weight_scale", message};
}

INSTANTIATE_TEST_SUITE_P(
    Scale, RefusalTest,
    ::testing::Values(
        BadScale("NotANumber", F32("b.fc.weight_scale", "[]", {kNan}), "nan, is no finite positive scale"),
        BadScale("Infinite", F32("b.fc.weight_scale", "[1]", {kInfinity}), "no finite positive scale"),
        BadScale("OfInfinities", F32("b.fc.weight_scale", "[3]", {0.5f, 3e38f, 0.5f}),
                 "its element 1, 3e+38, makes inf"),
        BadScale("Zero", F32("b.fc.weight_scale", "[3]", {0.5f, 0.0f, 0.5f}), "its element 1, 0,"),
        BadScale("Negative", F32("b.fc.weight_scale", "[3,1]", {0.5f, 0.5f, -0.5f}), "its element 2, -0.5,"),
        BadScale("InfiniteF16", Bits16("b.fc.weight_scale", "F16", "[]", {0x7c00}), "inf, is no"),
        BadScale("NotANumberF16", Bits16("b.fc.weight_scale", "F16", "[]", {0x7e01}), "nan, is no"),
        BadScale("NegativeF16", Bits16("b.fc.weight_scale", "F16", "[]", {0xbc00}), "-1, is no"),
        BadScale("InfiniteBF16", Bits16("b.fc.weight_scale", "BF16", "[]", {0x7f80}), "inf, is no"),
        BadScale("TooFew", F32("b.fc.weight_scale", "[2]", {0.5f, 0.5f}), "each of 3 rows"),
        BadScale("PerColumn", F32("b.fc.weight_scale", "[1,2]", {0.5f, 0.5f}), "shape [1, 2]"),
        BadScale("PerBlock", F32("b.fc.weight_scale", "[3,2]", std::vector<float>(6, 0.5f)), "scales per block"),
        BadScale("Empty", F32("b.fc.weight_scale", "[0]", {}), "shape [0]"),
        BadScale("OfTheTypeOfNvfp4", {"b.fc.weight_scale", "F8_E4M3", "[3]", "888"}, "type F8_E4M3"),
        BadCase{"OfTheTypeOfMxfp8",
                {kE4m3, {"b.fc.weight_scale", "F8_E8M0", "[3,1]", "888"}},
                "b.fc.weight_scale",
                "F8_E8M0",
                kUnimplemented},
        BadCase{"InputScalePerRow",
                {kE4m3Says, kE4m3, kScale, F32("b.fc.input_scale", "[3]", {0.5f, 0.5f, 0.5f})},
                "b.fc.input_scale",
                "shape [3]"},
        BadCase{"InputScaleInfinite",
                {kE4m3Says, kE4m3, kScale, F32("b.fc.input_scale", "[]", {kInfinity})},
                "b.fc.input_scale",
                "no finite positive scale"}),
    BadNameOf);

BadCase BadJson(const std::string& name, const std::string& json, const std::string& message,
                absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  return {name, {Json("b.fc.comfy_quant", json), kE4m3, kScale}, "b.fc.comfy_quant", message, code};
}

INSTANTIATE_TEST_SUITE_P(
    ComfyQuant, RefusalTest,
    ::testing::Values(
        BadCase{"ScaleMissing", {kE4m3Says, kE4m3}, "b.fc.weight_scale", "\"b.fc.comfy_quant\" says float8_e4m3fn"},
        BadCase{"OldScaleInItsPlace",
                {kE4m3Says, kE4m3, F32("b.fc.scale_weight", "[]", {0.5f})},
                "b.fc.weight_scale",
                "is missing"},
        BadCase{"SaysE4M3OfE5M2",
                {kE4m3Says, WeightOf("b.fc.weight", "F8_E5M2"), kScale},
                "b.fc.weight",
                "stored as F8_E5M2, but \"b.fc.comfy_quant\" says float8_e4m3fn"},
        BadCase{"SaysE4M3OfBf16", {kE4m3Says, WeightOf("b.fc.weight", "BF16", 2), kScale}, "b.fc.weight", "as BF16"},
        BadCase{"SaysInt8OfE4M3", {kInt8Says, kE4m3, kScale}, "b.fc.weight", "says int8_tensorwise"},
        BadJson("NotJson", "{", "not JSON at byte"), BadJson("Empty", "", "not JSON at byte"),
        BadJson("AList", "[]", "not an object"), BadJson("NoFormat", "{}", "format is missing"),
        BadJson("FormatANumber", R"({"format":1})", "format is missing or not a string"),
        BadJson("TwoFormats", R"({"format":"nvfp4","format":"float8_e4m3fn"})", "twice"),
        BadJson("FlagANumber", R"({"format":"float8_e4m3fn","full_precision_matrix_mult":1})", "neither true nor"),
        BadJson("TooDeep", std::string(100, '['), "nested"),
        BadJson("TooLarge", R"({"format":"float8_e4m3fn"})" + std::string(5000, ' '), "at most 4096"),
        BadCase{"NotText", {F32("b.fc.comfy_quant", "[]", {1.0f}), kE4m3, kScale}, "b.fc.comfy_quant", "stored as F32"},
        BadJson("Unknown", R"({"format":"int7\n"})", R"(int7\n, a format that is not known)", kUnimplemented),
        BadJson("Nvfp4", R"({"format":"nvfp4"})", "says nvfp4: scales per block", kUnimplemented),
        BadJson("Mxfp8", R"({"format":"mxfp8"})", "says mxfp8: scales per block", kUnimplemented),
        BadJson("W4a4", R"({"format":"convrot_w4a4"})", "4 bits", kUnimplemented),
        BadJson("Rotated", R"({"format":"int8_tensorwise","convrot":true,"convrot_groupsize":256})", "rotated",
                kUnimplemented),
        BadJson("RotatedBelow", R"({"format":"int8_tensorwise","params":{"convrot":true}})", "rotated",
                kUnimplemented)),
    BadNameOf);

INSTANTIATE_TEST_SUITE_P(
    Metadata, RefusalTest,
    ::testing::Values(BadCase{"ScaleMissing",
                              {kE4m3},
                              "b.fc.weight_scale",
                              "_quantization_metadata says float8_e4m3fn",
                              absl::StatusCode::kInvalidArgument,
                              R"({"layers":{"b.fc":{"format":"float8_e4m3fn"}}})"},
                      BadCase{"ContradictsTheTensor",
                              {kE4m3Says, kE4m3, kScale},
                              "b.fc.comfy_quant",
                              "contradicts _quantization_metadata",
                              absl::StatusCode::kInvalidArgument,
                              R"({"layers":{"b.fc":{"format":"int8_tensorwise"}}})"},
                      BadCase{"Unknown",
                              {kE4m3, kScale},
                              "b.fc.weight",
                              "says int7, a format that is not known",
                              kUnimplemented,
                              R"({"layers":{"b.fc":{"format":"int7"}}})"},
                      BadCase{
                          "Rotated",
                          {WeightOf("b.fc.weight", "I8"), kScale},
                          "b.fc.weight",
                          "rotated",
                          kUnimplemented,
                          R"({"layers":{"model.diffusion_model.b.fc":{"format":"int8_tensorwise","convrot":true}}})"}),
    BadNameOf);

BadCase BadCompanion(const std::string& name, const std::string& tensor, const std::string& message) {
  return {name, {kE4m3, kScale, F32(tensor, "[]", {1.0f})}, tensor, message, kUnimplemented};
}

INSTANTIATE_TEST_SUITE_P(
    Others, RefusalTest,
    ::testing::Values(
        BadCompanion("SecondScale", "b.fc.weight_scale_2", "nvfp4"),
        BadCompanion("InverseScale", "b.fc.weight_scale_inv", "scales per block"),
        BadCompanion("Smoothing", "b.fc.pre_quant_scale", "per column"),
        BadCompanion("ZeroPoint", "b.fc.weight_zero_point", "zero point"),
        BadCompanion("Bitsandbytes", "b.fc.SCB", "bitsandbytes"),
        BadCase{"QuantoInt4",
                {{"b.fc.weight._data._data", "U8", "[3]", "xxx"}, F32("b.fc.weight._scale", "[3,1]", {1, 1, 1})},
                "b.fc.weight._data._data",
                "qint4",
                kUnimplemented},
        BadCase{"QuantoInt4Shift",
                {{"b.fc.weight._data", "U8", "[3]", "xxx"}, F32("b.fc.weight._shift", "[3,1]", {1, 1, 1})},
                "b.fc.weight._shift",
                "qint4",
                kUnimplemented},
        BadCase{"QuantoScaleMissing", {WeightOf("b.fc.weight._data", "I8")}, "b.fc.weight._scale", "is missing"},
        BadCase{"QuantoScaleZero",
                {WeightOf("b.fc.weight._data", "I8"), F32("b.fc.weight._scale", "[3,1]", {1, 0, 1})},
                "b.fc.weight._scale",
                "its element 1, 0"},
        BadCase{"QuantoPacked",
                {WeightOf("b.fc.weight._data", "I32", 4), F32("b.fc.weight._scale", "[3,1]", {1, 1, 1})},
                "b.fc.weight._data",
                "stored as I32",
                kUnimplemented},
        BadCase{"QuantoOfFloats",
                {WeightOf("b.fc.weight._data", "BF16", 2), F32("b.fc.weight._scale", "[3,1]", {1, 1, 1})},
                "b.fc.weight._data",
                "codes of type BF16"}),
    BadNameOf);

// A shard's error names the shard.
TEST(FindStoredWeight, NamesTheShard) {
  TempFolder folder;
  folder.Write("m-1.safetensors", Bytes({kE4m3}));
  folder.Write("m-2.safetensors", Bytes({F32("b.fc.weight_scale", "[]", {0.0f})}));
  folder.Write("m.safetensors.index.json",
               R"({"weight_map":{"b.fc.weight":"m-1.safetensors","b.fc.weight_scale":"m-2.safetensors"}})");
  const WeightStore store = WeightStore::Open(folder.path(), "m").value();
  const absl::Status status = FindStoredWeight(store, {}, "b.fc", kOut, kIn).status();
  EXPECT_THAT(Message(status), HasSubstr("m-2.safetensors"));
}

TEST(FindStoredWeight, NamesAreMadePrintable) {
  TempFolder folder;
  const absl::Status status = FindStoredWeight(Open(folder, {}), {}, "b\n.fc", kOut, kIn).status();
  EXPECT_THAT(Message(status), HasSubstr(R"("b\n.fc.weight")"));
}

// One row: [1] is one scale and one per row.
TEST(FindStoredWeight, AScaleOfOneRow) {
  TempFolder folder;
  const WeightStore store =
      Open(folder, {WeightOf("a.weight", "I8", 1, "[1,2]", 2), F32("a.weight_scale", "[1]", {0.5f})});
  EXPECT_THAT(FindStoredWeight(store, {}, "a", 1, 2)->scale, ElementsAre(0.5f));
}

}  // namespace
}  // namespace fresco
