#include "pipeline/checkpoint/stored_weight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/pipeline/checkpoint/stored_weight_maker.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

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

}  // namespace
}  // namespace fresco
