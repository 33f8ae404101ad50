// The setting `attention: fp8`: when it has an effect, what is said of it, and what it does to the demo model's
// pictures.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>

#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"
#include "pipeline/image/similarity.h"
#include "tests/pipeline/engine/checkpoint_copy.h"

namespace fresco {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

LoadOptions Demo(const std::string& precision, std::optional<AttentionScheme> attention) {
  LoadOptions options;
  options.name = "demo";
  options.path = "models/demo";
  options.precision = precision;
  options.attention = attention;
  options.threads = 2;
  return options;
}

Image Draw(Engine* engine, const std::string& prompt) {
  ImageSpec spec;
  spec.prompt = prompt;
  spec.width = spec.height = 128;
  spec.steps = 12;
  spec.guidance_scale = 3;
  spec.seed = 4;
  spec.max_sequence_length = 16;
  const std::unique_ptr<ImageJob> job = engine->Prepare(spec).value();
  while (!job->done()) EXPECT_TRUE(engine->Step({job.get()}).front().ok());
  return engine->Finish(*job).value();
}

constexpr char kPrompt[] = "a red apple on a light blue background";

TEST(Fp8AttentionSetting, APictureIsAnotherAndLooksTheSame) {
  const auto exact = LoadEngine(Demo("fp32", std::nullopt)).value(),
             plain = LoadEngine(Demo("fp8", std::nullopt)).value(),
             fp8 = LoadEngine(Demo("fp8", AttentionScheme::kFp8)).value();
  EXPECT_THAT(fp8->info().notes, Contains(HasSubstr("attention: fp8, emulated")));
  EXPECT_EQ(fp8->info().attention, "fp8");
  EXPECT_THAT(plain->info().notes, Not(Contains(HasSubstr("attention"))));
  EXPECT_EQ(plain->info().attention, "");
  const Image expected = Draw(exact.get(), kPrompt), drawn = Draw(fp8.get(), kPrompt);
  EXPECT_NE(drawn.rgb, Draw(plain.get(), kPrompt).rgb);
  // What is kept of a quantised model elsewhere (quantize --keep-psnr), and what SSIM calls the same picture.
  EXPECT_GT(Psnr(drawn, expected).value(), 35);
  EXPECT_GT(Ssim(drawn, expected).value(), 0.98);
}

TEST(Fp8AttentionSetting, TheFoldersOwnIsKeptAndOverruled) {
  const CheckpointCopy copy("models/demo");
  copy.Write("fresco.yaml", "attention: fp8\n");
  LoadOptions options = Demo("fp8", std::nullopt);
  options.path = copy.path("");
  EXPECT_THAT(LoadEngine(options).value()->info().notes, Contains(HasSubstr("attention: fp8, emulated")));
  options.attention = AttentionScheme::kHigh;
  EXPECT_THAT(LoadEngine(options).value()->info().notes, Not(Contains(HasSubstr("attention"))));
}

TEST(Fp8AttentionSetting, AnotherPrecisionHasNone) {
  const auto plain = LoadEngine(Demo("fp32", std::nullopt)).value(),
             asked = LoadEngine(Demo("fp32", AttentionScheme::kFp8)).value();
  EXPECT_THAT(asked->info().notes, Contains("attention: fp8 is of precision fp8, and this is fp32"));
  EXPECT_EQ(asked->info().attention, "");
  EXPECT_EQ(Draw(asked.get(), kPrompt).rgb, Draw(plain.get(), kPrompt).rgb);
}

TEST(Fp8AttentionSetting, HeadsOfAnotherWidthAreRefused) {
  LoadOptions options = Demo("fp8", AttentionScheme::kFp8);
  options.path = "tests/reference/checkpoints/medium";
  const absl::Status status = LoadEngine(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("attention: fp8 is for heads of 64 channels"));
}

}  // namespace
}  // namespace fresco
