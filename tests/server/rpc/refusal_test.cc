// What is refused, and how that is said.
#include <google/rpc/error_details.pb.h>

#include <set>

#include "gmock/gmock.h"
#include "pipeline/engine/memory_shortage.h"
#include "tests/server/rpc/service_fixture.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

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

std::vector<std::string> BadFieldsOf(const grpc::Status& status) {
  std::vector<std::string> fields;
  const auto bad = DetailOf<google::rpc::BadRequest>(status);
  if (!bad.has_value()) return fields;
  for (const auto& violation : bad->field_violations()) fields.push_back(violation.field());
  return fields;
}

// Who holds a device's memory travels beside the text, for programs.
TEST_F(ServiceTest, WhoHoldsTheMemoryIsInTheStatusDetails) {
#if defined(__SANITIZE_THREAD__)
  // ErrorInfo has a map, and protobuf's maps have another layout in what ThreadSanitizer compiles (map_field.h) than in
  // the distribution's library.
  GTEST_SKIP() << "protobuf's maps are not for ThreadSanitizer";
#endif
  Start();
  ShortageReport report;
  report.doing = "decoding";
  report.device = "cpu";
  report.width = report.height = 1024;
  report.shortage = MemoryShortage{12 << 20, {}};
  report.shortage->before.held = {{{"fake", "vae", MemoryKind::kActivations}, 5000, 5000, 5000}};
  report.shortage->before.allocated_bytes = 5000;
  script_->Fail("large", FakeScript::Stage::kFinish, ShortageError(report));
  const Drawn drawn = Generate(Request("large"));
  EXPECT_EQ(drawn.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(drawn.status.error_message(), HasSubstr("decoding 1024x1024: out of memory on cpu: 12 MiB more were"));
  const auto info = DetailOf<google::rpc::ErrorInfo>(drawn.status);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->reason(), "OUT_OF_MEMORY");
  EXPECT_EQ(info->metadata().at("device"), "cpu");
  EXPECT_EQ(info->metadata().at("asked"), "12582912");
  EXPECT_EQ(info->metadata().at("held_vae_activations"), "5000");
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
  EXPECT_THAT(AwaitCalls(2), ElementsAre("fake INVALID_ARGUMENT", "fake INVALID_ARGUMENT"));
}

TEST_F(ServiceTest, TextsThatAreNotUtf8AreNamedOnceAndBesideWhatElseIsWrong) {
  Start();
  std::string request;
  for (int i = 0; i < 80'000; ++i) request += "\x12\x01\xff";  // prompt, over and over
  std::string response;
  const grpc::Status repeated = CallRaw("/fresco.v1.ImageGeneration/CreateImage", request, &response);
  EXPECT_EQ(repeated.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(BadFieldsOf(repeated), ElementsAre("prompt"));
  v1::GenerateRequest bad = Request("\xff");
  bad.set_request_id("mine");
  bad.set_width(17);
  bad.set_steps(-1);
  EXPECT_THAT(BadFieldsOf(Generate(bad).status), ElementsAre("prompt", "width", "steps"));
  EXPECT_THAT(AwaitLog(2), ::testing::Contains(HasSubstr("id=mine")));
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

TEST_F(ServiceTest, ACallWithoutAMessageDrawsNothing) {
  Start();
  RawCall call(channel_, "/fresco.v1.ImageGeneration/Generate");
  call.SendNothing();
  EXPECT_FALSE(call.Rest().ok());
  EXPECT_TRUE(script_->steps().empty());
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

TEST_F(ServiceTest, CreateImageRefusesWhatItCannotStream) {
  Start();
  v1::CreateImageRequest request;
  request.set_stream(true);
  grpc::ClientContext context;
  v1::CreateImageResponse response;
  const grpc::Status status = stub_->CreateImage(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto bad = DetailOf<google::rpc::BadRequest>(status);
  ASSERT_TRUE(bad.has_value());
  EXPECT_EQ(bad->field_violations(0).field(), "stream");
  EXPECT_THAT(status.error_message(), HasSubstr("Generate streams"));
  EXPECT_TRUE(script_->steps().empty());
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
  request.set_model(std::string(200'000, 'm'));
  const grpc::Status unknown = Generate(request).status;
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(unknown.error_message(),
              ::testing::AllOf(HasSubstr("mmm…'; this server has fake"), ::testing::SizeIs(::testing::Lt(200))));
  v1::CreateImageRequest create;
  create.set_size(std::string(100'000, '\x01'));
  create.set_output_format(std::string(100'000, '%'));
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

TEST_F(ServiceTest, ADeadlineThatCannotBeMetIsRefusedAndSaysWhenItCould) {
  Options options;
  options.scheduler.max_batch = 1;
  CostModel& costs = options.scheduler.costs;
  costs.RecordStep(costs.Curve("fake", 1), 2, absl::Seconds(10));  // of an image, 4 of them
  Start(options);
  script_->step_gate()->Close();
  OpenCall running(stub_.get(), Request("a"));
  script_->step_gate()->AwaitBlocked();
  // Behind the one that runs it would be done in 80 s, by itself in 40 s.
  const grpc::Status later = OpenCall(stub_.get(), Request("b"), absl::Seconds(60)).Rest().status;
  EXPECT_EQ(later.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(later.error_message(), HasSubstr("it would be done in about 8"));
  const auto retry = DetailOf<google::rpc::RetryInfo>(later);
  ASSERT_TRUE(retry.has_value());
  EXPECT_GE(retry->retry_delay().seconds(), 19);
  EXPECT_LE(retry->retry_delay().seconds(), 25);
  const grpc::Status never = OpenCall(stub_.get(), Request("c"), absl::Seconds(30)).Rest().status;
  EXPECT_EQ(never.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(never.error_message(), HasSubstr("it would be done in about 8"));
  EXPECT_EQ(never.error_details(), "");  // there is no time to come back at
  script_->step_gate()->Open();
  EXPECT_TRUE(running.Rest().status.ok());
}

TEST_F(ServiceTest, TheSameIdTwiceAtOnceIsRefusedWhereCallersShareNothing) {
  Options options;
  options.rpc.results.anonymous = false;
  Start(options);
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

TEST_F(ServiceTest, AResultThatIsNotFiniteIsAnErrorAndNoPicture) {
  Start();
  script_->Fail("bad", FakeScript::Stage::kStep, absl::DataLossError("the velocity is NaN"), 2);
  const Drawn drawn = Generate(Request("bad"));
  EXPECT_EQ(drawn.status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_THAT(drawn.status.error_message(), HasSubstr("NaN"));
  EXPECT_TRUE(drawn.images().empty());
}

}  // namespace
}  // namespace fresco
