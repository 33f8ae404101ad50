#include "server/rpc/request_validation.h"

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/violations.h"
#include "tests/support/fake_engine.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class RequestValidationTest : public ::testing::Test {
 protected:
  RequestValidationTest() : engine_(Info(), std::make_shared<FakeScript>(), nullptr) {
    limits_.max_width = 64;
    limits_.max_height = 128;
    limits_.max_steps = 20;
    limits_.max_image_count = 4;
    limits_.max_prompt_bytes = 10;
  }

  static ModelInfo Info() {
    ModelInfo info = FakeModelInfo();
    info.default_width = 32;
    info.default_height = 48;
    info.default_max_sequence_length = 77;
    info.max_size = 96;
    info.max_sequence_length_limit = 256;
    return info;
  }

  absl::StatusOr<GenerationRequest> Validate(const v1::GenerateRequest& request) const {
    return ValidateGenerate(request, engine_, limits_, [] { return 0xfeedfacecafef00d; });
  }
  absl::StatusOr<GenerationRequest> Validate(const v1::CreateImageRequest& request) const {
    return ValidateCreateImage(request, engine_, limits_, [] { return 7; });
  }

  template <typename Request>
  std::vector<std::string> BadFields(const Request& request) const {
    std::vector<std::string> fields;
    for (const FieldViolation& violation : ViolationsOf(Validate(request).status())) fields.push_back(violation.field);
    return fields;
  }
  std::string Complaint(const v1::GenerateRequest& request) const {
    return std::string(Validate(request).status().message());
  }

  FakeEngine engine_;
  RequestLimits limits_;
};

TEST_F(RequestValidationTest, WhatIsLeftOutGetsTheModelsDefaults) {
  const auto request = Validate(v1::GenerateRequest());
  ASSERT_TRUE(request.ok()) << request.status();
  ASSERT_EQ(request->images.size(), 1u);
  const ImageSpec& spec = request->images[0];
  EXPECT_EQ(spec.width, 32);
  EXPECT_EQ(spec.height, 48);
  EXPECT_EQ(spec.steps, 4);
  EXPECT_EQ(spec.guidance_scale, 4.5f);
  EXPECT_EQ(spec.max_sequence_length, 77);
  EXPECT_EQ(spec.clip_skip, 0);
  EXPECT_EQ(spec.noise_correction, std::nullopt);
  EXPECT_FALSE(spec.deterministic);
  EXPECT_EQ(spec.prompt_2, std::nullopt);
  EXPECT_EQ(request->model, "fake");
  EXPECT_EQ(request->id, "feedfacecafef00d");
  EXPECT_EQ(spec.seed, 0xcafef00d);  // below 2^32
  EXPECT_EQ(request->priority, RequestPriority::kStandard);
  EXPECT_EQ(request->encode.format, ImageFormat::kPng);
  EXPECT_EQ(request->encode.quality, 90);
}

TEST_F(RequestValidationTest, DefaultsBeyondTheServersLimitsAreClampedWithAWarning) {
  ModelInfo info = Info();
  info.default_width = 1024;
  info.default_height = 1024;
  info.default_steps = 28;
  info.max_size = 1440;
  const FakeEngine large(info, std::make_shared<FakeScript>(), nullptr);
  limits_.max_width = 100;  // of which 96 is a multiple
  const auto request = ValidateGenerate(v1::GenerateRequest(), large, limits_, [] { return 1; });
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->images[0].width, 96);
  EXPECT_EQ(request->images[0].height, 128);
  EXPECT_EQ(request->images[0].steps, 20);
  std::vector<std::string> fields;
  for (const Warning& warning : request->warnings) {
    EXPECT_EQ(warning.kind, Warning::Kind::kValueClamped);
    fields.push_back(warning.field);
  }
  EXPECT_THAT(fields, ElementsAre("width", "height", "steps"));
  EXPECT_EQ(request->warnings[0].message,
            "width is 96 here, the most that this server draws; the model's default is 1024");
  v1::GenerateRequest asked;
  asked.set_width(64);
  asked.set_height(64);
  asked.set_steps(20);
  EXPECT_THAT(ValidateGenerate(asked, large, limits_, [] { return 1; })->warnings, ::testing::IsEmpty());
}

TEST_F(RequestValidationTest, LimitsBelowTheModelsSmallestSizeAreSaid) {
  limits_.max_width = 15;
  EXPECT_THAT(BadFields(v1::GenerateRequest()), ::testing::Contains("width"));
}

TEST_F(RequestValidationTest, EveryFieldArrives) {
  v1::GenerateRequest wire;
  wire.set_prompt("a");
  wire.set_negative_prompt("b");
  wire.set_prompt_2("c");
  wire.set_prompt_3("");
  wire.set_width(64);
  wire.set_height(96);
  wire.set_steps(20);
  wire.set_guidance_scale(0);
  wire.set_seed(5);
  wire.set_image_count(2);
  wire.set_format(v1::IMAGE_FORMAT_WEBP);
  wire.set_quality(1);
  wire.set_preview_every(3);
  wire.set_priority(v1::PRIORITY_BATCH);
  wire.set_request_id("A-z_0.9:");
  wire.set_max_sequence_length(256);
  wire.set_clip_skip(2);
  wire.set_noise_correction(false);
  wire.set_deterministic(true);
  const auto request = Validate(wire);
  ASSERT_TRUE(request.ok()) << request.status();
  ImageSpec expected;
  expected.prompt = "a";
  expected.negative_prompt = "b";
  expected.prompt_2 = "c";
  expected.prompt_3 = "";
  expected.width = 64;
  expected.height = 96;
  expected.steps = 20;
  expected.guidance_scale = 0;
  expected.seed = 5;
  expected.max_sequence_length = 256;
  expected.clip_skip = 2;
  expected.noise_correction = false;
  expected.deterministic = true;
  ImageSpec second = expected;
  second.seed = 6;
  EXPECT_THAT(request->images, ElementsAre(expected, second));
  EXPECT_EQ(request->encode.format, ImageFormat::kWebp);
  EXPECT_EQ(request->encode.quality, 1);
  EXPECT_EQ(request->preview_every, 3);
  EXPECT_EQ(request->priority, RequestPriority::kBatch);
  EXPECT_EQ(request->id, "A-z_0.9:");
}

TEST_F(RequestValidationTest, SeedsWrapAround) {
  v1::GenerateRequest wire;
  wire.set_seed(std::numeric_limits<uint64_t>::max());
  wire.set_image_count(2);
  const auto request = Validate(wire);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->images[0].seed, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(request->images[1].seed, 0u);
}

TEST_F(RequestValidationTest, EveryBadFieldIsSaidAtOnce) {
  v1::GenerateRequest wire;
  wire.set_prompt("eleven byte");
  wire.set_negative_prompt("eleven byte");
  wire.set_prompt_2("eleven byte");
  wire.set_prompt_3("eleven byte");
  wire.set_width(20);
  wire.set_height(-16);
  wire.set_steps(21);
  wire.set_guidance_scale(std::numeric_limits<float>::quiet_NaN());
  wire.set_image_count(5);
  wire.set_format(static_cast<v1::ImageFormat>(99));
  wire.set_quality(101);
  wire.set_preview_every(-1);
  wire.set_priority(static_cast<v1::Priority>(99));
  wire.set_request_id("no spaces");
  wire.set_max_sequence_length(257);
  wire.set_clip_skip(-1);
  EXPECT_THAT(BadFields(wire),
              UnorderedElementsAre("prompt", "negative_prompt", "prompt_2", "prompt_3", "width", "height", "steps",
                                   "guidance_scale", "image_count", "format", "quality", "preview_every", "priority",
                                   "request_id", "max_sequence_length", "clip_skip"));
  EXPECT_EQ(Validate(wire).status().code(), absl::StatusCode::kInvalidArgument);
}

struct BadValue {
  const char* name;
  void (*set)(v1::GenerateRequest*);
  const char* message;
};

class BadValueTest : public RequestValidationTest, public ::testing::WithParamInterface<BadValue> {};

TEST_P(BadValueTest, IsRefusedWithTheReason) {
  v1::GenerateRequest wire;
  GetParam().set(&wire);
  EXPECT_THAT(Complaint(wire), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadValueTest,
    ::testing::Values(
        BadValue{"WidthNotAMultiple", [](auto* r) { r->set_width(24); }, "width must be a multiple of 16, got 24"},
        BadValue{"WidthBeyondTheLimit", [](auto* r) { r->set_width(80); }, "width must be from 16 to 64, got 80"},
        BadValue{"HeightBeyondTheModel", [](auto* r) { r->set_height(112); }, "height must be from 16 to 96, got 112"},
        BadValue{"NegativeSteps", [](auto* r) { r->set_steps(-1); }, "steps must be from 1 to 20, got -1"},
        BadValue{"InfiniteGuidance", [](auto* r) { r->set_guidance_scale(INFINITY); },
                 "guidance_scale must be a number from 0 to 30, got inf"},
        BadValue{"NegativeGuidance", [](auto* r) { r->set_guidance_scale(-0.5f); },
                 "guidance_scale must be a number from 0 to 30, got -0.5"},
        BadValue{"LongPrompt", [](auto* r) { r->set_prompt("eleven byte"); },
                 "prompt must have at most 10 bytes, has 11"},
        BadValue{"NotUtf8", [](auto* r) { r->set_prompt("\xff"); }, "prompt must be UTF-8"},
        BadValue{"LongId", [](auto* r) { r->set_request_id(std::string(129, 'a')); },
                 "request_id must be at most 128 letters"},
        BadValue{"UnknownFormat", [](auto* r) { r->set_format(static_cast<v1::ImageFormat>(9)); },
                 "format must be one of the enum's values, got 9"}),
    [](const auto& info) { return info.param.name; });

TEST_F(RequestValidationTest, OpenAisShapeIsTheSameRequest) {
  v1::CreateImageRequest wire;
  wire.set_prompt("a");
  wire.set_n(2);
  wire.set_size("64x32");
  wire.set_output_format("jpeg");
  wire.set_output_compression(55);
  wire.set_response_format("b64_json");
  wire.set_quality("hd");
  wire.set_seed(1);
  const auto request = Validate(wire);
  ASSERT_TRUE(request.ok()) << request.status();
  ASSERT_EQ(request->images.size(), 2u);
  EXPECT_EQ(request->images[1].width, 64);
  EXPECT_EQ(request->images[1].height, 32);
  EXPECT_EQ(request->images[1].seed, 2u);
  EXPECT_EQ(request->encode.format, ImageFormat::kJpeg);
  EXPECT_EQ(request->encode.quality, 55);
}

TEST_F(RequestValidationTest, OpenAisFieldsKeepTheirNames) {
  v1::CreateImageRequest wire;
  wire.set_n(5);
  wire.set_size("17x17");
  wire.set_output_format("gif");
  wire.set_response_format("url");
  wire.set_output_compression(101);
  EXPECT_THAT(BadFields(wire),
              ::testing::IsSupersetOf({"n", "size", "output_format", "response_format", "output_compression"}));
  for (const char* size : {"big", "64", "64x", "x64", "0x0", "-16x16", "64x64x64"}) {
    v1::CreateImageRequest bad;
    bad.set_size(size);
    EXPECT_THAT(BadFields(bad), ::testing::Contains("size")) << size;
  }
  for (const char* size : {"", "auto"}) {
    v1::CreateImageRequest good;
    good.set_size(size);
    EXPECT_TRUE(Validate(good).ok()) << size;
  }
}

TEST_F(RequestValidationTest, WhoWantsEventsIsToldWhereTheyAre) {
  v1::CreateImageRequest wire;
  wire.set_stream(true);
  wire.set_partial_images(2);
  EXPECT_THAT(BadFields(wire), UnorderedElementsAre("stream", "partial_images"));
  EXPECT_THAT(std::string(Validate(wire).status().message()),
              AllOf(HasSubstr("stream must be false"), HasSubstr("partial_images must be 0"),
                    HasSubstr("POST /v1/fresco/generate")));
  wire.set_stream(false);
  wire.set_partial_images(0);
  EXPECT_TRUE(Validate(wire).ok());
}

}  // namespace
}  // namespace fresco
