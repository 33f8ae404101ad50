#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include <limits>
#include <random>
#include <set>
#include <thread>

#include "gmock/gmock.h"
#include "pipeline/image/codec.h"
#include "tests/server/rpc/service_fixture.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

v1::GenerateRequest Request(const std::string& prompt) {
  v1::GenerateRequest request;
  request.set_prompt(prompt);
  return request;
}

// The first detail of this type.
template <typename Detail>
std::optional<Detail> DetailOf(const grpc::Status& status) {
  google::rpc::Status all;
  EXPECT_TRUE(all.ParseFromString(status.error_details()));
  EXPECT_EQ(all.code(), static_cast<int>(status.error_code()));
  Detail detail;
  for (const google::protobuf::Any& any : all.details()) {
    if (any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

// A call that goes on while the test does something else.
class OpenCall {
 public:
  OpenCall(v1::ImageGeneration::Stub* stub, const v1::GenerateRequest& request,
           absl::Duration timeout = absl::InfiniteDuration()) {
    if (timeout != absl::InfiniteDuration()) context_.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    reader_ = stub->Generate(&context_, request);
  }
  v1::GenerateEvent Next() {
    v1::GenerateEvent event;
    EXPECT_TRUE(reader_->Read(&event));
    return event;
  }
  Drawn Rest() { return ReadAll(reader_.get()); }
  void Hangup() { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>> reader_;
};

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

TEST_F(ServiceTest, BadFieldsAreAllNamedInTheStatusDetails) {
  Start();
  v1::GenerateRequest request = Request("a cat");
  request.set_width(17);
  request.set_steps(-1);
  request.set_image_count(1000);
  const Drawn drawn = Generate(request);
  EXPECT_EQ(drawn.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto bad = DetailOf<google::rpc::BadRequest>(drawn.status);
  ASSERT_TRUE(bad.has_value());
  std::set<std::string> fields;
  for (const auto& violation : bad->field_violations()) {
    fields.insert(violation.field());
    EXPECT_THAT(drawn.status.error_message(), HasSubstr(violation.description()));
  }
  EXPECT_THAT(fields, UnorderedElementsAre("width", "steps", "image_count"));
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake INVALID_ARGUMENT"));
}

TEST_F(ServiceTest, AnUnknownModelIsNotFoundAmongThoseThatExist) {
  Options options;
  options.models = {"one", "two"};
  Start(options);
  v1::GenerateRequest request = Request("a cat");
  request.set_model("three");
  const Drawn drawn = Generate(request);
  EXPECT_EQ(drawn.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(drawn.status.error_message(), "there is no model 'three'; this server has one, two");
}

// A status travels in headers, of which clients take 8 KiB.
TEST_F(ServiceTest, WhatACallerSendsIsSaidBackInShort) {
  Start();
  v1::GenerateRequest request = Request("a cat");
  request.set_model(std::string(1 << 20, 'm'));
  const grpc::Status unknown = Generate(request).status;
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(unknown.error_message(),
              ::testing::AllOf(HasSubstr("mmm…'; this server has fake"), ::testing::SizeIs(::testing::Lt(200))));
  v1::CreateImageRequest create;
  create.set_size(std::string(1 << 20, '\x01'));
  create.set_output_format(std::string(1 << 20, '%'));
  grpc::ClientContext context;
  v1::CreateImageResponse response;
  EXPECT_EQ(stub_->CreateImage(&context, create, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, ALongErrorIsCutInsteadOfLost) {
  Start();
  std::string euros;
  for (int i = 0; i < 5000; ++i) euros += "€";
  script_->Fail("bad", FakeScript::Stage::kPrepare, absl::InternalError(euros));
  const grpc::Status status = Generate(Request("bad")).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("€€€…"));
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

TEST_F(ServiceTest, AFullQueueRefusesAndSaysWhenToComeBack) {
  Options options;
  options.scheduler.max_queue = 1;
  options.scheduler.max_batch = 1;
  Start(options);
  script_->step_gate()->Close();
  OpenCall running(stub_.get(), Request("a"));
  script_->step_gate()->AwaitBlocked();
  OpenCall waiting(stub_.get(), Request("b"));
  EXPECT_TRUE(waiting.Next().has_queued());
  const Drawn refused = Generate(Request("c"));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const auto retry = DetailOf<google::rpc::RetryInfo>(refused.status);
  ASSERT_TRUE(retry.has_value());
  EXPECT_TRUE(retry->retry_delay().seconds() > 0 || retry->retry_delay().nanos() > 0);
  script_->step_gate()->Open();
  EXPECT_TRUE(running.Rest().status.ok());
  EXPECT_TRUE(waiting.Rest().status.ok());
}

TEST_F(ServiceTest, CancelEndsARequestByItsId) {
  Start();
  script_->step_gate()->Close();
  OpenCall call(stub_.get(), Request("a"));
  const std::string id = call.Next().queued().request_id();
  script_->step_gate()->AwaitBlocked();
  v1::CancelRequest cancel;
  cancel.set_request_id(id);
  v1::CancelResponse response;
  grpc::ClientContext first, second, third;
  EXPECT_TRUE(stub_->Cancel(&first, cancel, &response).ok());
  script_->step_gate()->Open();
  EXPECT_EQ(call.Rest().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(stub_->Cancel(&second, cancel, &response).error_code(), grpc::StatusCode::NOT_FOUND);
  cancel.set_request_id("no such id");
  EXPECT_EQ(stub_->Cancel(&third, cancel, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, TheSameIdTwiceAtOnceIsRefused) {
  Start();
  script_->step_gate()->Close();
  v1::GenerateRequest request = Request("a");
  request.set_request_id("twin");
  OpenCall call(stub_.get(), request);
  call.Next();
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  script_->step_gate()->Open();
  EXPECT_TRUE(call.Rest().status.ok());
  EXPECT_TRUE(Generate(request).status.ok());
}

TEST_F(ServiceTest, ACallerWhoLeavesIsNotDrawnFor) {
  Start();
  script_->step_gate()->Close();
  OpenCall call(stub_.get(), Request("a"));
  script_->step_gate()->AwaitBlocked();
  call.Hangup();
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake CANCELLED"));
  script_->step_gate()->Open();
  // The same device draws the next one, so the job that was left is gone by now or never will be.
  EXPECT_TRUE(Generate(Request("b")).status.ok());
  while (script_->live_jobs() > 0) absl::SleepFor(absl::Milliseconds(1));
  size_t steps_of_a = 0;
  for (const FakeStep& step : script_->steps()) {
    for (const FakeStep::Entry& image : step.images) steps_of_a += image.prompt == "a";
  }
  EXPECT_EQ(steps_of_a, 1u);
  EXPECT_EQ(call.Rest().status.error_code(), grpc::StatusCode::CANCELLED);
}

// An id is free once its request is drawn, though its caller has not read the picture.
TEST_F(ServiceTest, ACallerWhoLeavesTakesNobodyElsesRequestOfTheSameIdAlong) {
  Options options;
  // More than gRPC's windows hold.
  options.scheduler.encoder = [](const Image&, const EncodeOptions&) { return std::string(24 << 20, 'x'); };
  Start(options);
  v1::GenerateRequest request = Request("a");
  request.set_request_id("x");
  OpenCall first(stub_.get(), request);
  EXPECT_TRUE(first.Next().has_queued());
  v1::GetStatusResponse status;
  do {
    grpc::ClientContext context;
    ASSERT_TRUE(operations_->GetStatus(&context, {}, &status).ok());
  } while (status.requests_size() > 0);
  script_->step_gate()->Close();
  OpenCall second(stub_.get(), request);
  script_->step_gate()->AwaitBlocked();
  first.Hangup();
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake CANCELLED"));
  script_->step_gate()->Open();
  const Drawn drawn = second.Rest();
  EXPECT_TRUE(drawn.status.ok()) << drawn.status.error_message();
  EXPECT_EQ(drawn.images().size(), 1u);
}

TEST_F(ServiceTest, ADeadlineEndsTheCall) {
  Start();
  script_->step_gate()->Close();
  OpenCall call(stub_.get(), Request("a"), absl::Milliseconds(300));
  EXPECT_EQ(call.Rest().status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  // Whose timer is first, the caller's or the server's, is the machine's matter.
  EXPECT_THAT(AwaitCalls(1), ElementsAre(::testing::AnyOf("fake DEADLINE_EXCEEDED", "fake CANCELLED")));
  script_->step_gate()->Open();
  while (script_->live_jobs() > 0) absl::SleepFor(absl::Milliseconds(1));
}

TEST_F(ServiceTest, AReaderThatStallsLosesItsCallAndNobodyElseDoes) {
  Options options;
  options.rpc.slow_reader_limit = absl::Milliseconds(200);
  // More than gRPC's windows hold.
  options.scheduler.encoder = [](const Image&, const EncodeOptions&) { return std::string(24 << 20, 'x'); };
  Start(options);
  OpenCall stalled(stub_.get(), Request("a"));
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake CANCELLED"));
  EXPECT_THAT(AwaitLog(1).back(), HasSubstr("read nothing for too long"));
  EXPECT_FALSE(stalled.Rest().status.ok());
}

TEST_F(ServiceTest, AResultThatIsNotFiniteIsAnErrorAndNoPicture) {
  Start();
  script_->Fail("bad", FakeScript::Stage::kStep, absl::DataLossError("the velocity is NaN"), 2);
  const Drawn drawn = Generate(Request("bad"));
  EXPECT_EQ(drawn.status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_THAT(drawn.status.error_message(), HasSubstr("NaN"));
  EXPECT_TRUE(drawn.images().empty());
}

TEST_F(ServiceTest, WhileAModelLoadsCallersAreToldToComeBack) {
  Gate& loading = *script_->prepare_gate();
  loading.Close();
  Options options;
  options.loader = [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
    loading.Pass();
    return std::make_unique<FakeEngine>(FakeModelInfo(), script_, nullptr);
  };
  Start(options);
  EXPECT_EQ(Health("fake"), "NOT_SERVING");
  EXPECT_EQ(Health(""), "NOT_SERVING");
  const Drawn refused = Generate(Request("a"));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(refused.status).has_value());
  grpc::ClientContext context;
  v1::ListModelsResponse models;
  ASSERT_TRUE(stub_->ListModels(&context, {}, &models).ok());
  EXPECT_EQ(models.models(0).state(), v1::Model::LOADING);
  loading.Open();
  AwaitHealth("fake", "SERVING");
  AwaitHealth("", "SERVING");
  EXPECT_TRUE(Generate(Request("a")).status.ok());
}

TEST_F(ServiceTest, AFailedModelSaysWhyAndTheOthersServe) {
  Options options;
  options.models = {"broken", "fine"};
  options.loader = [] { return absl::InvalidArgumentError("transformer.safetensors: tensor x is cut short"); };
  Start(options);
  AwaitHealth("", "SERVING");
  EXPECT_EQ(Health("broken"), "NOT_SERVING");
  EXPECT_EQ(Health("fine"), "SERVING");
  EXPECT_EQ(Health("other"), "5");  // NOT_FOUND
  const Drawn refused = Generate(Request("a"));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("tensor x is cut short"));
  grpc::ClientContext context;
  v1::ListModelsResponse models;
  ASSERT_TRUE(stub_->ListModels(&context, {}, &models).ok());
  EXPECT_EQ(models.models(0).state(), v1::Model::FAILED);
  EXPECT_EQ(models.models(0).error(), "transformer.safetensors: tensor x is cut short");
  EXPECT_EQ(models.models(1).state(), v1::Model::READY);
}

TEST_F(ServiceTest, ListModelsSaysWhatARequestMayAsk) {
  Options options;
  options.rpc.limits.max_width = 520;
  options.rpc.limits.max_steps = 3;
  Start(options);
  grpc::ClientContext context;
  v1::ListModelsResponse models;
  ASSERT_TRUE(stub_->ListModels(&context, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  const v1::Model& model = models.models(0);
  EXPECT_EQ(model.name(), "fake");
  EXPECT_EQ(model.state(), v1::Model::READY);
  EXPECT_EQ(model.precision(), "fp32");
  EXPECT_EQ(model.weights_digest(), "sha256:0000");
  EXPECT_THAT(model.devices(), ElementsAre("cpu"));
  EXPECT_EQ(model.default_width(), 16);
  EXPECT_EQ(model.default_steps(), 3);  // the server's limit; the model's own is 4
  EXPECT_EQ(model.size_multiple(), 16);
  EXPECT_EQ(model.max_width(), 512);    // the server's limit, as a multiple of 16
  EXPECT_EQ(model.max_height(), 2048);  // the model's
}

TEST_F(ServiceTest, GetStatusShowsWhatRuns) {
  Start();
  script_->step_gate()->Close();
  v1::GenerateRequest request = Request("a");
  request.set_request_id("seen");
  request.set_priority(v1::PRIORITY_INTERACTIVE);
  OpenCall call(stub_.get(), request);
  script_->step_gate()->AwaitBlocked();
  grpc::ClientContext context;
  v1::GetStatusResponse status;
  ASSERT_TRUE(operations_->GetStatus(&context, {}, &status).ok());
  EXPECT_EQ(status.version(), "1.2.3");
  EXPECT_FALSE(status.draining());
  EXPECT_EQ(status.requests_running(), 1);
  EXPECT_EQ(status.max_queue(), 256);
  ASSERT_EQ(status.devices_size(), 1);
  EXPECT_EQ(status.devices(0).name(), "cpu");
  EXPECT_EQ(status.devices(0).memory_weights_bytes(), 1000);
  EXPECT_EQ(status.devices(0).memory_peak_bytes(), 5000);
  EXPECT_EQ(status.devices(0).batch_size(), 1);
  ASSERT_EQ(status.requests_size(), 1);
  EXPECT_EQ(status.requests(0).request_id(), "seen");
  EXPECT_EQ(status.requests(0).priority(), v1::PRIORITY_INTERACTIVE);
  EXPECT_EQ(status.requests(0).total_steps(), 4);
  script_->step_gate()->Open();
  EXPECT_TRUE(call.Rest().status.ok());
}

TEST_F(ServiceTest, DrainFinishesWhatRunsAndTakesNothingNew) {
  Start();
  script_->step_gate()->Close();
  OpenCall call(stub_.get(), Request("a"));
  script_->step_gate()->AwaitBlocked();
  grpc::Status drained;
  v1::DrainResponse response;
  std::thread drainer([&] {
    grpc::ClientContext context;
    drained = operations_->Drain(&context, {}, &response);
  });
  AwaitHealth("", "NOT_SERVING");
  AwaitHealth("fake", "NOT_SERVING");
  const Drawn refused = Generate(Request("b"));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  script_->step_gate()->Open();
  EXPECT_TRUE(call.Rest().status.ok());
  drainer.join();
  EXPECT_TRUE(drained.ok());
  EXPECT_EQ(response.requests_left(), 0);
}

TEST_F(ServiceTest, DrainAnswersBeforeItsDeadlineWithWhatIsLeft) {
  Start();
  script_->step_gate()->Close();
  OpenCall call(stub_.get(), Request("a"));
  script_->step_gate()->AwaitBlocked();
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(1)));
  v1::DrainResponse response;
  EXPECT_TRUE(operations_->Drain(&context, {}, &response).ok());
  EXPECT_EQ(response.requests_left(), 1);
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

TEST_F(ServiceTest, CreateImagesErrorsNameItsOwnFields) {
  Start();
  v1::CreateImageRequest request;
  request.set_size("33x33");
  grpc::ClientContext context;
  v1::CreateImageResponse response;
  const grpc::Status status = stub_->CreateImage(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto bad = DetailOf<google::rpc::BadRequest>(status);
  ASSERT_TRUE(bad.has_value());
  EXPECT_EQ(bad->field_violations(0).field(), "size");
}

TEST_F(ServiceTest, ACallerOfCreateImageWhoLeavesIsNotDrawnFor) {
  Start();
  script_->step_gate()->Close();
  v1::CreateImageRequest request;
  request.set_prompt("a");
  grpc::ClientContext context;
  std::thread hangup([&] {
    script_->step_gate()->AwaitBlocked();
    context.TryCancel();
  });
  v1::CreateImageResponse response;
  EXPECT_EQ(stub_->CreateImage(&context, request, &response).error_code(), grpc::StatusCode::CANCELLED);
  hangup.join();
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake CANCELLED"));
  script_->step_gate()->Open();
  while (script_->live_jobs() > 0) absl::SleepFor(absl::Milliseconds(1));
}

std::vector<std::string> BadFieldsOf(const grpc::Status& status) {
  std::vector<std::string> fields;
  const auto bad = DetailOf<google::rpc::BadRequest>(status);
  if (!bad.has_value()) return fields;
  for (const auto& violation : bad->field_violations()) fields.push_back(violation.field());
  return fields;
}

// gRPC 1.51 itself would answer UNIMPLEMENTED to what it cannot parse.
TEST_F(ServiceTest, TextsThatAreNotUtf8AreNamed) {
  Start();
  v1::GenerateRequest request = Request("\xff");
  request.set_negative_prompt("bl\xe9");
  const grpc::Status generated = Generate(request).status;
  EXPECT_EQ(generated.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(BadFieldsOf(generated), ElementsAre("prompt", "negative_prompt"));
  std::string response;
  const std::string service = "/fresco.v1.ImageGeneration/";
  const grpc::Status created = CallRaw(service + "CreateImage", "\x12\x01\xff", &response);
  EXPECT_EQ(created.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(BadFieldsOf(created), ElementsAre("prompt"));
  const grpc::Status cancelled = CallRaw(service + "Cancel", "\x0a\x01\xff", &response);
  EXPECT_EQ(cancelled.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(BadFieldsOf(cancelled), ElementsAre("request_id"));
  EXPECT_TRUE(script_->steps().empty());
  EXPECT_THAT(AwaitCalls(2), ElementsAre(" INVALID_ARGUMENT", " INVALID_ARGUMENT"));
}

TEST_F(ServiceTest, BytesThatAreNoMessageAreRefused) {
  Start();
  std::string response;
  for (const char* method : {"Generate", "CreateImage", "Cancel"}) {
    const grpc::Status status = CallRaw(std::string("/fresco.v1.ImageGeneration/") + method, "\x12\x7f", &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
    EXPECT_THAT(status.error_message(), HasSubstr(std::string("fresco.v1.") + method + "Request")) << method;
  }
}

TEST_F(ServiceTest, ReflectionListsTheServices) {
  Start();
  // message ServerReflectionRequest { oneof … { string list_services = 7; } }; the reply spells the names out.
  std::string response;
  const grpc::Status status =
      CallRaw("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", std::string("\x3a\x01*"), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  for (const char* service : {"fresco.v1.ImageGeneration", "fresco.v1.Operations", "grpc.health.v1.Health"}) {
    EXPECT_THAT(response, HasSubstr(service));
  }
}

TEST_F(ServiceTest, EveryCallEndsInOneLineWithItsIdAndNoPrompt) {
  Options options;
  options.log.format = LogFormat::kJson;
  Start(options);
  v1::GenerateRequest request = Request("a secret");
  request.set_request_id("logged");
  ASSERT_TRUE(Generate(request).status.ok());
  EXPECT_THAT(AwaitLog(1),
              ElementsAre(::testing::AllOf(
                  HasSubstr(R"("event":"request","id":"logged","method":"Generate","model":"fake","code":"OK")"),
                  HasSubstr(R"("denoise_s":)"), ::testing::Not(HasSubstr("secret")))));
}

TEST_F(ServiceTest, PromptsAreLoggedWhereTheConfigurationSaysSo) {
  Options options;
  options.log.prompts = true;
  Start(options);
  ASSERT_TRUE(Generate(Request("no secret")).status.ok());
  EXPECT_THAT(AwaitLog(1).front(), HasSubstr("prompt=\"no secret\""));
}

TEST_F(ServiceTest, ASecondServerOnTheSamePortIsRefused) {
  Start();
  RpcOptions options;
  options.address = "127.0.0.1:" + std::to_string(server_->port());
  ModelRegistry registry({});
  SystemClock clock;
  Scheduler scheduler({}, &clock, nullptr);
  const Logger logger(LogConfig(), &clock, [](std::string_view) {});
  const auto second =
      RpcServer::Start(options, {&scheduler, &registry, &logger, &clock, [] { return 0; }, [](auto&, auto&) {}});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(options.address));
}

TEST_F(ServiceTest, ManyCallersAtOnceAllGetTheirOwnPictures) {
  Start();
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([this, caller] {
      for (int round = 0; round < 4; ++round) {
        v1::GenerateRequest request = Request("p");
        request.set_seed(static_cast<uint64_t>(caller * 10 + round));
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
