#include "pipeline/checkpoint/stored_weight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/pipeline/checkpoint/file_maker.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

using Codes = StoredWeight::Codes;

constexpr int64_t kOut = 3, kIn = 2;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

struct FileTensor {
  std::string name;
  std::string dtype;
  std::string shape;
  std::string data;
};

FileTensor WeightOf(const std::string& name, const std::string& dtype, size_t element_bytes = 1,
                    const std::string& shape = "[3,2]", size_t elements = kOut * kIn) {
  return {name, dtype, shape, std::string(elements * element_bytes, '\x38')};
}

FileTensor F32(const std::string& name, const std::string& shape, const std::vector<float>& values) {
  return {name, "F32", shape, std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float))};
}

// For BF16 and F16, by bits.
FileTensor Bits16(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::vector<uint16_t>& values) {
  return {name, dtype, shape, std::string(reinterpret_cast<const char*>(values.data()), values.size() * 2)};
}

FileTensor Json(const std::string& name, const std::string& text) {
  return {name, "U8", "[" + std::to_string(text.size()) + "]", text};
}

FileTensor Marker(const std::string& dtype, int elements, const std::string& name = "scaled_fp8") {
  return {name, dtype, "[" + std::to_string(elements) + "]",
          std::string(static_cast<size_t>(elements) * (dtype == "F32" ? 4 : 1), '\0')};
}

// Of a safetensors file. One byte comes before them all, so that none is aligned.
std::string Bytes(const std::vector<FileTensor>& tensors) {
  std::string header = R"({"!":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})", data = "!";
  for (const FileTensor& tensor : tensors) {
    const size_t begin = data.size();
    data += tensor.data;
    header += ",\"" + tensor.name + R"(":{"dtype":")" + tensor.dtype + R"(","shape":)" + tensor.shape +
              R"(,"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
  }
  return SafetensorsBytes(header + "}", data);
}

WeightStore Open(const TempFolder& folder, const std::vector<FileTensor>& tensors) {
  return WeightStore::OpenFile(folder.Write("model.safetensors", Bytes(tensors))).value();
}

QuantizationMetadata Metadata(const std::string& json) {
  return json.empty() ? QuantizationMetadata() : QuantizationMetadata::Parse(json, "model.safetensors").value();
}

struct GoodCase {
  std::string name;
  std::vector<FileTensor> tensors;
  Codes codes;
  std::vector<float> scale;
  std::string source;
  std::optional<float> input_scale = {};
  bool full_precision = false;
  std::string metadata = {};
};

void PrintTo(const GoodCase& good, std::ostream* out) {
  *out << good.name;
}

class FormatTest : public ::testing::TestWithParam<GoodCase> {};

// Everything of layer "b.fc".
TEST_P(FormatTest, IsRead) {
  const GoodCase& good = GetParam();
  TempFolder folder;
  const WeightStore store = Open(folder, good.tensors);
  const auto stored = FindStoredWeight(store, Metadata(good.metadata), "b.fc", kOut, kIn);
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ(stored->codes, good.codes);
  EXPECT_EQ(stored->scale, good.scale);
  EXPECT_EQ(stored->source, good.source);
  EXPECT_EQ(stored->input_scale, good.input_scale);
  EXPECT_EQ(stored->full_precision_matmul, good.full_precision);
  EXPECT_THAT(stored->weight.shape, ElementsAre(kOut, kIn));
  const bool quanto = store.Contains("b.fc.weight._data");
  EXPECT_EQ(stored->weight.data, store.Find(quanto ? "b.fc.weight._data" : "b.fc.weight")->data);
}

std::string NameOf(const ::testing::TestParamInfo<GoodCase>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(
    Plain, FormatTest,
    ::testing::Values(GoodCase{"F32", {WeightOf("b.fc.weight", "F32", 4)}, Codes::kPlain, {}, "plain"},
                      GoodCase{"BF16", {WeightOf("b.fc.weight", "BF16", 2)}, Codes::kPlain, {}, "plain"},
                      GoodCase{"F16", {WeightOf("b.fc.weight", "F16", 2)}, Codes::kPlain, {}, "plain"},
                      GoodCase{"E4M3", {WeightOf("b.fc.weight", "F8_E4M3")}, Codes::kE4M3, {}, "fp8 cast"},
                      GoodCase{"E5M2", {WeightOf("b.fc.weight", "F8_E5M2")}, Codes::kE5M2, {}, "fp8 cast"}),
    NameOf);

INSTANTIATE_TEST_SUITE_P(
    ComfyUiOld, FormatTest,
    ::testing::Values(
        GoodCase{"Scaled",
                 {Marker("F8_E4M3", 0), WeightOf("b.fc.weight", "F8_E4M3"), F32("b.fc.scale_weight", "[]", {0.5f})},
                 Codes::kE4M3,
                 {0.5f},
                 "ComfyUI scaled"},
        GoodCase{"E5M2",
                 {Marker("F8_E5M2", 0), WeightOf("b.fc.weight", "F8_E5M2"), F32("b.fc.scale_weight", "[1]", {0.5f})},
                 Codes::kE5M2,
                 {0.5f},
                 "ComfyUI scaled"},
        GoodCase{"FullPrecision",
                 {Marker("F8_E4M3", 2), WeightOf("b.fc.weight", "F8_E4M3"), F32("b.fc.scale_weight", "[]", {0.5f}),
                  F32("b.fc.scale_input", "[]", {0.25f})},
                 Codes::kE4M3,
                 {0.5f},
                 "ComfyUI scaled",
                 0.25f,
                 true},
        GoodCase{"InputScaleOfOneIsUnset",
                 {Marker("F8_E4M3", 0), WeightOf("b.fc.weight", "F8_E4M3"), F32("b.fc.scale_weight", "[]", {0.5f}),
                  F32("b.fc.scale_input", "[]", {1.0f})},
                 Codes::kE4M3,
                 {0.5f},
                 "ComfyUI scaled"},
        GoodCase{"MarkerOfTheFirstWriters",
                 {Marker("F32", 1), WeightOf("b.fc.weight", "F8_E4M3"), F32("b.fc.scale_weight", "[]", {0.5f})},
                 Codes::kE4M3,
                 {0.5f},
                 "ComfyUI scaled"},
        GoodCase{"TheInnermostMarkerCounts",
                 {Marker("F8_E5M2", 0), Marker("F8_E4M3", 2, "b.scaled_fp8"), WeightOf("b.fc.weight", "F8_E4M3"),
                  F32("b.fc.scale_weight", "[]", {0.5f})},
                 Codes::kE4M3,
                 {0.5f},
                 "ComfyUI scaled",
                 std::nullopt,
                 true},
        GoodCase{"NoMarker",
                 {WeightOf("b.fc.weight", "F8_E4M3"), F32("b.fc.scale_weight", "[]", {0.5f})},
                 Codes::kE4M3,
                 {0.5f},
                 "ComfyUI scaled"},
        GoodCase{"PerRow",
                 {Marker("F8_E4M3", 0), WeightOf("b.fc.weight", "F8_E4M3"),
                  F32("b.fc.scale_weight", "[3,1]", {0.5f, 0.25f, 2.0f})},
                 Codes::kE4M3,
                 {0.5f, 0.25f, 2.0f},
                 "ComfyUI scaled"},
        GoodCase{
            "LayerLeftInBf16", {Marker("F8_E4M3", 0), WeightOf("b.fc.weight", "BF16", 2)}, Codes::kPlain, {}, "plain"}),
    NameOf);

const FileTensor kE4m3Says = Json("b.fc.comfy_quant", R"({"format":"float8_e4m3fn"})");
const FileTensor kInt8Says = Json("b.fc.comfy_quant", R"({"format": "int8_tensorwise"})");

INSTANTIATE_TEST_SUITE_P(
    ComfyUi, FormatTest,
    ::testing::Values(
        GoodCase{"E4M3",
                 {kE4m3Says, WeightOf("b.fc.weight", "F8_E4M3"), F32("b.fc.weight_scale", "[]", {0.5f}),
                  F32("b.fc.input_scale", "[]", {0.125f})},
                 Codes::kE4M3,
                 {0.5f},
                 "comfy_quant float8_e4m3fn",
                 0.125f},
        GoodCase{"InputScaleOfOneIsUnset",
                 {kE4m3Says, WeightOf("b.fc.weight", "F8_E4M3"), F32("b.fc.weight_scale", "[]", {0.5f}),
                  F32("b.fc.input_scale", "[]", {1.0f})},
                 Codes::kE4M3,
                 {0.5f},
                 "comfy_quant float8_e4m3fn"},
        GoodCase{"E5M2FullPrecision",
                 {Json("b.fc.comfy_quant", R"({"format":"float8_e5m2","full_precision_matrix_mult":true,"new":[1]})"),
                  WeightOf("b.fc.weight", "F8_E5M2"), F32("b.fc.weight_scale", "[]", {0.5f})},
                 Codes::kE5M2,
                 {0.5f},
                 "comfy_quant float8_e5m2",
                 std::nullopt,
                 true},
        GoodCase{"Rows",
                 {Json("b.fc.comfy_quant", R"({"format":"float8_e4m3fn_rowwise"})"), WeightOf("b.fc.weight", "F8_E4M3"),
                  F32("b.fc.weight_scale", "[3]", {0.5f, 0.25f, 2.0f})},
                 Codes::kE4M3,
                 {0.5f, 0.25f, 2.0f},
                 "comfy_quant float8_e4m3fn_rowwise"},
        GoodCase{"Int8PerRow",
                 {kInt8Says, WeightOf("b.fc.weight", "I8"), F32("b.fc.weight_scale", "[3,1]", {0.5f, 0.25f, 2.0f})},
                 Codes::kInt8,
                 {0.5f, 0.25f, 2.0f},
                 "comfy_quant int8_tensorwise"},
        // 1.5, 2^-24 (subnormal), 65504
        GoodCase{"Int8PerRowF16",
                 {kInt8Says, WeightOf("b.fc.weight", "I8"),
                  Bits16("b.fc.weight_scale", "F16", "[3]", {0x3e00, 0x0001, 0x7bff})},
                 Codes::kInt8,
                 {1.5f, 5.9604644775390625e-8f, 65504.0f},
                 "comfy_quant int8_tensorwise"},
        GoodCase{"Int8OneScale",
                 {kInt8Says, WeightOf("b.fc.weight", "I8"), Bits16("b.fc.weight_scale", "BF16", "[1,1]", {0x3e80})},
                 Codes::kInt8,
                 {0.25f},
                 "comfy_quant int8_tensorwise"},
        GoodCase{"NothingSaysSo",
                 {WeightOf("b.fc.weight", "F8_E4M3"), F32("b.fc.weight_scale", "[]", {0.5f}),
                  F32("b.fc.input_scale", "[]", {0.125f})},
                 Codes::kE4M3,
                 {0.5f},
                 "weight_scale",
                 0.125f},
        GoodCase{"NothingSaysSoInt8",
                 {WeightOf("b.fc.weight", "I8"), F32("b.fc.weight_scale", "[3]", {0.5f, 0.25f, 2.0f})},
                 Codes::kInt8,
                 {0.5f, 0.25f, 2.0f},
                 "weight_scale"}),
    NameOf);

INSTANTIATE_TEST_SUITE_P(
    Metadata, FormatTest,
    ::testing::Values(GoodCase{"E4M3",
                               {WeightOf("b.fc.weight", "F8_E4M3"), F32("b.fc.weight_scale", "[]", {0.5f})},
                               Codes::kE4M3,
                               {0.5f},
                               "comfy_quant float8_e4m3fn",
                               std::nullopt,
                               true,
                               R"({"format_version":"1.0","layers":{"b.fc":{"format":"float8_e4m3fn",)"
                               R"("full_precision_matrix_mult":true}}})"},
                      GoodCase{"FormatAlone",
                               {WeightOf("b.fc.weight", "I8"), F32("b.fc.weight_scale", "[]", {0.5f})},
                               Codes::kInt8,
                               {0.5f},
                               "comfy_quant int8_tensorwise",
                               std::nullopt,
                               false,
                               R"({"layers":{"b.fc":"int8_tensorwise"}})"},
                      GoodCase{"WithThePrefix",
                               {WeightOf("b.fc.weight", "F8_E4M3"), F32("b.fc.weight_scale", "[]", {0.5f})},
                               Codes::kE4M3,
                               {0.5f},
                               "comfy_quant float8_e4m3fn",
                               std::nullopt,
                               false,
                               R"({"layers":{"model.diffusion_model.b.fc":{"format":"float8_e4m3fn"}}})"},
                      GoodCase{"SaysTheSameAsTheTensor",
                               {kE4m3Says, WeightOf("b.fc.weight", "F8_E4M3"), F32("b.fc.weight_scale", "[]", {0.5f})},
                               Codes::kE4M3,
                               {0.5f},
                               "comfy_quant float8_e4m3fn",
                               std::nullopt,
                               false,
                               R"({"layers":{"b.fc":{"format":"float8_e4m3fn"}}})"},
                      GoodCase{"AnUnknownFormatOfAnotherLayer",
                               {WeightOf("b.fc.weight", "BF16", 2)},
                               Codes::kPlain,
                               {},
                               "plain",
                               std::nullopt,
                               false,
                               R"({"layers":{"b.other":{"format":"int7"}}})"}),
    NameOf);

INSTANTIATE_TEST_SUITE_P(
    Quanto, FormatTest,
    ::testing::Values(GoodCase{"Int8",
                               {WeightOf("b.fc.weight._data", "I8"),
                                Bits16("b.fc.weight._scale", "BF16", "[3,1]", {0x3f00, 0x3e80, 0x4000}),
                                F32("b.fc.input_scale", "[]", {0.125f}), F32("b.fc.output_scale", "[]", {0.125f})},
                               Codes::kInt8,
                               {0.5f, 0.25f, 2.0f},
                               "optimum-quanto qint8"},
                      GoodCase{"E4M3",
                               {WeightOf("b.fc.weight._data", "F8_E4M3"),
                                F32("b.fc.weight._scale", "[3,1]", {0.5f, 0.25f, 2.0f}),
                                F32("b.fc.input_scale", "[]", {1.0f}), F32("b.fc.output_scale", "[]", {1.0f})},
                               Codes::kE4M3,
                               {0.5f, 0.25f, 2.0f},
                               "optimum-quanto qfloat8_e4m3fn"},
                      GoodCase{"E5M2",
                               {WeightOf("b.fc.weight._data", "F8_E5M2"), F32("b.fc.weight._scale", "[]", {0.5f})},
                               Codes::kE5M2,
                               {0.5f},
                               "optimum-quanto qfloat8_e5m2"},
                      GoodCase{"LayerLeftAlone",
                               {WeightOf("b.fc.weight", "BF16", 2), F32("b.fc.input_scale", "[]", {1.0f}),
                                F32("b.fc.output_scale", "[]", {1.0f})},
                               Codes::kPlain,
                               {},
                               "plain"}),
    NameOf);

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
        BadCase{"TwoScales", {kE4m3, kScale, F32("b.fc.scale_weight", "[]", {0.5f})}, "b.fc.weight", "two scales"}),
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

// A mixed file, read layer by layer and counted.
TEST(SummarizeStoredWeights, CountsAMixedFile) {
  TempFolder folder;
  const WeightStore store = Open(
      folder, {Marker("F8_E4M3", 2, "old.scaled_fp8"), WeightOf("old.a.weight", "F8_E4M3"),
               F32("old.a.scale_weight", "[]", {0.5f}), WeightOf("old.b.weight", "BF16", 2),
               WeightOf("new.a.weight", "I8"), F32("new.a.weight_scale", "[3,1]", {1, 2, 3}),
               Json("new.a.comfy_quant", R"({"format":"int8_tensorwise"})"), WeightOf("new.b.weight", "F8_E5M2"),
               F32("new.b.weight_scale", "[]", {0.5f}), WeightOf("new.c.weight", "F8_E4M3"),
               WeightOf("quanto.a.weight._data", "I8"), F32("quanto.a.weight._scale", "[3,1]", {1, 2, 3}),
               F32("norm.weight", "[3]", {1, 2, 3}), F32("table", "[1,1]", {1}), F32("conv.weight", "[1,1,1,1]", {1})});
  const QuantizationMetadata metadata = Metadata(R"({"layers":{"new.b":{"format":"float8_e5m2"}}})");
  const StoredWeightSummary summary = SummarizeStoredWeights(store, metadata);
  EXPECT_THAT(
      summary.by_source,
      UnorderedElementsAre(Pair("ComfyUI scaled", 1), Pair("plain", 1), Pair("comfy_quant int8_tensorwise", 1),
                           Pair("comfy_quant float8_e5m2", 1), Pair("fp8 cast", 1), Pair("optimum-quanto qint8", 1)));
  EXPECT_EQ(summary.unreadable, 0);
  EXPECT_TRUE(summary.first_error.ok()) << summary.first_error;

  EXPECT_EQ(FindStoredWeight(store, metadata, "old.b", kOut, kIn)->codes, Codes::kPlain);
  EXPECT_EQ(FindStoredWeight(store, metadata, "new.c", kOut, kIn)->codes, Codes::kE4M3);
  EXPECT_THAT(FindStoredWeight(store, metadata, "quanto.a", kOut, kIn)->scale, ElementsAre(1, 2, 3));
}

TEST(SummarizeStoredWeights, KeepsTheFirstError) {
  TempFolder folder;
  const WeightStore store = Open(folder, {WeightOf("a.weight", "BF16", 2),
                                          WeightOf("b.weight", "I8"),
                                          WeightOf("c.weight", "U8", 1, "[3,1]", 3),
                                          Json("c.comfy_quant", R"({"format":"nvfp4"})"),
                                          {"d.weight._data._data", "U8", "[3,1]", "xxx"}});
  const StoredWeightSummary summary = SummarizeStoredWeights(store, {});
  EXPECT_THAT(summary.by_source, UnorderedElementsAre(Pair("plain", 1)));
  EXPECT_EQ(summary.unreadable, 3);
  EXPECT_THAT(Message(summary.first_error), HasSubstr("\"b.weight\""));
}

// Names of a file can be long: the search for a marker ends.
TEST(SummarizeStoredWeights, SearchesLongNamesBriefly) {
  TempFolder folder;
  std::string name;
  for (int i = 0; i < 1'000'000; ++i) name += "a.";
  const WeightStore store = Open(folder, {WeightOf(name + "weight", "F8_E4M3")});
  EXPECT_THAT(SummarizeStoredWeights(store, {}).by_source, UnorderedElementsAre(Pair("fp8 cast", 1)));
}

TEST(QuantizationMetadata, KeepsWhatTheFileSays) {
  const QuantizationMetadata metadata = Metadata(
      R"({"layers":{"a":{"format":"int7"},"model.diffusion_model.b":{"format":"nvfp4"},"c":"int8_tensorwise"}})");
  ASSERT_NE(metadata.Find("a"), nullptr);
  EXPECT_EQ(metadata.Find("a")->format, "int7");
  EXPECT_EQ(metadata.Find("model.diffusion_model.a"), metadata.Find("a"));
  ASSERT_NE(metadata.Find("b"), nullptr);
  EXPECT_EQ(metadata.Find("b")->format, "nvfp4");
  ASSERT_NE(metadata.Find("c"), nullptr);
  EXPECT_EQ(metadata.Find("c")->format, "int8_tensorwise");
  EXPECT_EQ(metadata.Find("d"), nullptr);
  EXPECT_THAT(Metadata(R"({"layers":{}})").layers, IsEmpty());
}

struct BadMetadata {
  const char* name;
  std::string json;
  const char* message;
};

void PrintTo(const BadMetadata& bad, std::ostream* out) {
  *out << bad.name;
}

class BadMetadataTest : public ::testing::TestWithParam<BadMetadata> {};

TEST_P(BadMetadataTest, IsRefused) {
  const absl::Status status = QuantizationMetadata::Parse(GetParam().json, "/m/file.safetensors").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status),
              AllOf(HasSubstr("/m/file.safetensors: _quantization_metadata: "), HasSubstr(GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(
    QuantizationMetadata, BadMetadataTest,
    ::testing::Values(BadMetadata{"NotJson", "float8", "not JSON at byte"}, BadMetadata{"Empty", "", "not JSON"},
                      BadMetadata{"AList", "[]", "layers is missing"},
                      BadMetadata{"NoLayers", "{}", "layers is missing"},
                      BadMetadata{"LayersAList", R"({"layers":[]})", "layers is missing or not an object"},
                      BadMetadata{"LayerANumber", R"({"layers":{"a\n":1}})", R"(layer "a\n": not an object)"},
                      BadMetadata{"NoFormat", R"({"layers":{"a":{}}})", "layer \"a\": format is missing"},
                      BadMetadata{"FlagAString", R"({"layers":{"a":{"format":"x","convrot":"no"}}})",
                                  "convrot is neither"},
                      BadMetadata{"LayerTwice", R"({"layers":{"a":"x","a":"y"}})", "twice"},
                      BadMetadata{"TooDeep", std::string(100, '['), "nested"},
                      BadMetadata{"TooLarge", std::string((4 << 20) + 1, ' '), "at most 4194304"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace fresco
