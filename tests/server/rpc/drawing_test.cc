// What a call that draws gives.
#include <limits>
#include <random>
#include <thread>

#include "gmock/gmock.h"
#include "pipeline/image/codec.h"
#include "tests/server/rpc/service_fixture.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TEST_F(ServiceTest, EventsComeInTheirOrder) {
  Start();
  v1::GenerateRequest request = Request("a cat");
  request.set_steps(3);
  request.set_preview_every(2);
  request.set_request_id("my-own");
  const Drawn drawn = Generate(request);
  ASSERT_TRUE(drawn.status.ok()) << drawn.status.error_message();
  EXPECT_EQ(drawn.order(), "qspic");
  EXPECT_EQ(drawn.events.front().queued().request_id(), "my-own");
  std::vector<std::pair<int, bool>> steps;  // step, with a preview
  for (const v1::GenerateEvent& event : drawn.events) {
    EXPECT_EQ(event.started().device(), event.has_started() ? "cpu" : "");
    if (!event.has_progress()) continue;
    EXPECT_EQ(event.progress().total_steps(), 3);
    steps.emplace_back(event.progress().step(), !event.progress().preview().empty());
    if (!event.progress().preview().empty()) {
      const auto preview = DecodeImage(event.progress().preview());
      ASSERT_TRUE(preview.ok()) << preview.status();
      EXPECT_EQ(event.progress().preview_mime_type(), MimeType(preview->format));
    }
  }
  EXPECT_THAT(steps, ElementsAre(Pair(1, false), Pair(2, true), Pair(3, false)));
}

TEST_F(ServiceTest, ThePictureIsTheOneThatWasAskedFor) {
  Start();
  v1::GenerateRequest request = Request("a cat");
  request.set_width(48);
  request.set_height(32);
  request.set_steps(7);
  request.set_guidance_scale(2);
  request.set_seed(9);
  const Drawn drawn = Generate(request);
  ASSERT_TRUE(drawn.status.ok()) << drawn.status.error_message();
  const auto decoded = DecodeImage(drawn.images().at(0));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->image.width, 48);
  EXPECT_EQ(decoded->image.height, 32);
  EXPECT_THAT(std::vector<uint8_t>(decoded->image.rgb.begin(), decoded->image.rgb.begin() + 3), ElementsAre(9, 7, 20));
  const v1::ImageChunk chunk = drawn.chunks().front();
  EXPECT_EQ(chunk.seed(), 9u);
  EXPECT_EQ(chunk.mime_type(), "image/png");
  EXPECT_EQ(chunk.width(), 48);
  EXPECT_EQ(chunk.height(), 32);
  EXPECT_EQ(chunk.provenance().model(), "fake");
  EXPECT_EQ(chunk.provenance().weights_digest(), "sha256:0000");
  EXPECT_EQ(chunk.provenance().calibration_digest(), "sha256:1111");
  EXPECT_EQ(chunk.provenance().precision(), "fp32");
  EXPECT_EQ(chunk.provenance().steps(), 7);
  EXPECT_EQ(chunk.provenance().guidance_scale(), 2);
}

TEST_F(ServiceTest, ManyImagesPerCallHaveSeedsInARow) {
  Start();
  v1::GenerateRequest request = Request("cats");
  request.set_image_count(3);
  request.set_seed(std::numeric_limits<uint64_t>::max() - 1);
  request.set_format(v1::IMAGE_FORMAT_JPEG);
  const Drawn drawn = Generate(request);
  ASSERT_TRUE(drawn.status.ok()) << drawn.status.error_message();
  EXPECT_THAT(drawn.seeds(), ElementsAre(Pair(0, std::numeric_limits<uint64_t>::max() - 1),
                                         Pair(1, std::numeric_limits<uint64_t>::max()), Pair(2, 0)));
  for (const auto& [index, bytes] : drawn.images()) {
    EXPECT_EQ(DecodeImage(bytes)->format, ImageFormat::kJpeg) << index;
  }
  EXPECT_TRUE(drawn.events.back().has_completed());
}

TEST_F(ServiceTest, AnUnsetSeedIsDrawnAndReturned) {
  Start();
  const uint64_t first = Generate(Request("a cat")).seeds().at(0);
  const uint64_t second = Generate(Request("a cat")).seeds().at(0);
  EXPECT_NE(first, second);
}

TEST_F(ServiceTest, LargePicturesComeInChunksBelowAMebibyte) {
  std::mt19937 random(1);
  std::string big(3'500'001, '\0');
  for (char& byte : big) byte = static_cast<char>(random());
  Options options;
  options.scheduler.encoder = [&](const Image&, const EncodeOptions&) { return big; };
  Start(options);
  const Drawn drawn = Generate(Request("a cat"));
  ASSERT_TRUE(drawn.status.ok()) << drawn.status.error_message();
  EXPECT_EQ(drawn.chunks().size(), 4u);
  for (const v1::GenerateEvent& event : drawn.events) EXPECT_LT(event.ByteSizeLong(), size_t{1} << 20);
  for (const v1::ImageChunk& chunk : drawn.chunks()) {
    EXPECT_EQ(chunk.total_bytes(), 3'500'001);
    EXPECT_EQ(chunk.has_provenance(), chunk.offset() == 0);
  }
  EXPECT_EQ(drawn.images().at(0), big);
}

TEST_F(ServiceTest, CompletedSaysHowItWent) {
  Start();
  const Drawn drawn = Generate(Request(std::string(100, 'x')));
  ASSERT_TRUE(drawn.status.ok()) << drawn.status.error_message();
  const v1::Completed& completed = drawn.events.back().completed();
  EXPECT_EQ(completed.batch_sizes().min(), 1);
  EXPECT_EQ(completed.batch_sizes().max(), 1);
  EXPECT_EQ(completed.peak_memory_bytes(), 2000);
  EXPECT_TRUE(completed.timings().has_total());
  ASSERT_EQ(completed.warnings_size(), 1);
  EXPECT_EQ(completed.warnings(0).kind(), v1::Warning::PROMPT_TRUNCATED);
  EXPECT_EQ(completed.warnings(0).field(), "prompt");
}

TEST_F(ServiceTest, CompletedSaysWhatTheServersLimitsHaveClamped) {
  Options options;
  options.rpc.limits.max_steps = 3;
  Start(options);
  const Drawn drawn = Generate(Request("a cat"));
  ASSERT_TRUE(drawn.status.ok()) << drawn.status.error_message();
  EXPECT_EQ(drawn.chunks().front().provenance().steps(), 3);
  const v1::Completed& completed = drawn.events.back().completed();
  ASSERT_EQ(completed.warnings_size(), 1);
  EXPECT_EQ(completed.warnings(0).kind(), v1::Warning::VALUE_CLAMPED);
  EXPECT_EQ(completed.warnings(0).field(), "steps");
}

TEST_F(ServiceTest, ARequestWithoutAModelGetsTheFirst) {
  Options options;
  options.models = {"one", "two"};
  Start(options);
  EXPECT_EQ(Generate(Request("a cat")).chunks().front().provenance().model(), "one");
  v1::GenerateRequest request = Request("a cat");
  request.set_model("two");
  EXPECT_EQ(Generate(request).chunks().front().provenance().model(), "two");
}

TEST_F(ServiceTest, CreateImageAnswersInOneMessage) {
  Start();
  v1::CreateImageRequest request;
  request.set_prompt("a cat");
  request.set_n(2);
  request.set_size("32x16");
  request.set_seed(5);
  request.set_output_format("webp");
  grpc::ClientContext context;
  v1::CreateImageResponse response;
  const grpc::Status status = stub_->CreateImage(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_GT(response.created(), 1'700'000'000);
  EXPECT_EQ(response.size(), "32x16");
  EXPECT_EQ(response.output_format(), "webp");
  ASSERT_EQ(response.data_size(), 2);
  for (int k = 0; k < 2; ++k) {
    EXPECT_EQ(response.data(k).seed(), 5u + k);
    const auto decoded = DecodeImage(response.data(k).b64_json());
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->format, ImageFormat::kWebp);
    EXPECT_EQ(decoded->image.width, 32);
  }
}

TEST_F(ServiceTest, ManyCallersAtOnceAllGetTheirOwnPictures) {
  Start();
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([this, caller] {
      for (int round = 0; round < 4; ++round) {
        v1::GenerateRequest request = Request("p");
        request.set_seed(caller * 10 + round);
        request.set_preview_every(1);
        const Drawn drawn = Generate(request);
        ASSERT_TRUE(drawn.status.ok()) << drawn.status.error_message();
        EXPECT_EQ(drawn.order(), "qspic");
        EXPECT_EQ(DecodeImage(drawn.images().at(0))->image.rgb.front(), caller * 10 + round);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(AwaitCalls(32).size(), 32u);
}

}  // namespace
}  // namespace fresco
