// What a file says of its layers in "_quantization_metadata".
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/pipeline/checkpoint/stored_weight_maker.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
                      BadMetadata{"TwoFormats", R"({"layers":{"a.b":"x","model.diffusion_model.a.b":"y"}})",
                                  "layer \"a.b\": \"model.diffusion_model.a.b\", which is the same"},
                      BadMetadata{"TooDeep", std::string(100, '['), "nested"},
                      BadMetadata{"TooLarge", std::string((4 << 20) + 1, ' '), "at most 4194304"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace fresco
