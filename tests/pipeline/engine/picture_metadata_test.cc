#include "pipeline/engine/picture_metadata.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace fresco {
namespace {

ImageProvenance Example() {
  ImageProvenance provenance;
  provenance.model = "demo";
  provenance.weights_digest = "sha256:12ab";
  provenance.precision = "bf16";
  provenance.device = "cuda:0";
  provenance.software = "fresco 0.1.0";
  provenance.sampler = "flow-match-euler";
  provenance.spec.prompt = "a \"red\" apple,\nüber 🍎";
  provenance.spec.negative_prompt = "blurry";
  provenance.spec.width = 192;
  provenance.spec.height = 128;
  provenance.spec.steps = 28;
  provenance.spec.guidance_scale = 7.1f;
  provenance.spec.seed = 18'446'744'073'709'551'615u;
  provenance.batch_size_min = 1;
  provenance.batch_size_max = 3;
  return provenance;
}

std::string Value(const ImageMetadata& metadata, const std::string& key) {
  for (const auto& [name, value] : metadata) {
    if (name == key) return value;
  }
  return "absent";
}

TEST(PictureMetadataTest, ParametersAreTheLinesThatOthersRead) {
  const ImageMetadata metadata = PictureMetadata(Example(), {});
  EXPECT_EQ(
      Value(metadata, "parameters"),
      "a \"red\" apple,\nüber 🍎\n"
      "Negative prompt: blurry\n"
      "Steps: 28, Sampler: flow-match-euler, CFG scale: 7.1, Seed: 18446744073709551615, Size: 192x128, Model: demo, "
      "Version: fresco 0.1.0");
  EXPECT_EQ(Value(metadata, "Software"), "fresco 0.1.0");
}

TEST(PictureMetadataTest, ProvenanceIsJson) {
  const auto json = nlohmann::json::parse(Value(PictureMetadata(Example(), {}), "fresco:provenance"));
  EXPECT_EQ(json["model"], "demo");
  EXPECT_EQ(json["weights_digest"], "sha256:12ab");
  EXPECT_EQ(json["precision"], "bf16");
  EXPECT_EQ(json["device"], "cuda:0");
  EXPECT_EQ(json["software"], "fresco 0.1.0");
  EXPECT_EQ(json["sampler"], "flow-match-euler");
  EXPECT_EQ(json["seed"], 18'446'744'073'709'551'615u);
  EXPECT_EQ(json["steps"], 28);
  EXPECT_EQ(json["guidance_scale"], 7.1);
  EXPECT_EQ(json["width"], 192);
  EXPECT_EQ(json["height"], 128);
  EXPECT_EQ(json["batch_size_min"], 1);
  EXPECT_EQ(json["batch_size_max"], 3);
  EXPECT_EQ(json["prompt"], Example().spec.prompt);
  EXPECT_EQ(json["negative_prompt"], "blurry");
  EXPECT_FALSE(json.contains("prompt_2"));
  EXPECT_FALSE(json.contains("calibration_digest"));
  EXPECT_FALSE(json.contains("attention"));
}

TEST(PictureMetadataTest, SaysThatAttentionsMultiplyFp8) {
  ModelInfo info;
  info.precision = info.attention = "fp8";
  const auto json =
      nlohmann::json::parse(Value(PictureMetadata(ProvenanceOf(info, "fresco"), {}), "fresco:provenance"));
  EXPECT_EQ(json["attention"], "fp8");
}

TEST(PictureMetadataTest, ACalibratedModelIsToldFromOneThatIsNot) {
  ImageProvenance provenance = Example();
  provenance.calibration_digest = "sha256:34cd";
  const auto json = nlohmann::json::parse(Value(PictureMetadata(provenance, {}), "fresco:provenance"));
  EXPECT_EQ(json["calibration_digest"], "sha256:34cd");
}

TEST(PictureMetadataTest, PromptsCanBeLeftOut) {
  ImageProvenance provenance = Example();
  provenance.spec.prompt_2 = "secret";
  for (const auto& [key, value] : PictureMetadata(provenance, {.prompts = false})) {
    EXPECT_THAT(value, ::testing::Not(::testing::HasSubstr("apple"))) << key;
    EXPECT_THAT(value, ::testing::Not(::testing::HasSubstr("blurry"))) << key;
    EXPECT_THAT(value, ::testing::Not(::testing::HasSubstr("secret"))) << key;
  }
}

TEST(PictureMetadataTest, BrokenUtf8DoesNotThrow) {
  ImageProvenance provenance = Example();
  provenance.spec.prompt = "\xff\xfe";
  EXPECT_NO_THROW((void)PictureMetadata(provenance, {}));
}

}  // namespace
}  // namespace fresco
