// Calls that end before they are done.
#include <google/rpc/error_details.pb.h>

#include <atomic>
#include <thread>

#include "gmock/gmock.h"
#include "pipeline/image/codec.h"
#include "tests/server/rpc/service_fixture.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kCreateImage[] = "/fresco.v1.ImageGeneration/CreateImage";
constexpr char kDrawA[] =
    "\x12\x01"
    "a";

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
  options.rpc.results.keep = absl::ZeroDuration();
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

TEST_F(ServiceTest, ADeadlineEndsTheCall) {
  Start();
  script_->step_gate()->Close();
  // Short enough for whichever timer fires first, the caller's or the server's: LeftAtDeadline.
  OpenCall call(stub_.get(), Request("a"), absl::Milliseconds(200));
  EXPECT_EQ(call.Rest().status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake DEADLINE_EXCEEDED"));
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
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake RESOURCE_EXHAUSTED"));
  EXPECT_THAT(AwaitLog(1).back(), HasSubstr("read nothing for too long"));
  const grpc::Status status = stalled.Rest().status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("read nothing for too long"));
}

TEST_F(ServiceTest, WhileOneReaderStallsOthersAreServed) {
  Options options;
  options.rpc.slow_reader_limit = absl::Seconds(60);
  options.scheduler.encoder = [](const Image&, const EncodeOptions& encode) {
    return std::string(encode.quality == 1 ? 24 << 20 : 100, 'x');
  };
  Start(options);
  v1::GenerateRequest large = Request("a");
  large.set_quality(1);
  OpenCall stalled(stub_.get(), large);
  // On a connection of its own: on one, the callers share its window.
  const auto other = OwnConnection();
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    EXPECT_TRUE(ReadAll(other->Generate(&context, Request("b")).get()).status.ok());
  }
  stalled.Hangup();
  EXPECT_FALSE(stalled.Rest().status.ok());
}

// Until an unread picture of one caller's has been read, or given up.
TEST_F(ServiceTest, WhereUnreadAnswersHoldAllThatTheyMayAnotherIsRefused) {
  Options options;
  options.rpc.connections.answer_bytes = 1 << 20;
  // More than gRPC's windows hold.
  std::atomic<int> encoded = 0;
  options.scheduler.encoder = [&](const Image&, const EncodeOptions&) {
    ++encoded;
    return std::string(24 << 20, 'x');
  };
  Start(options);
  RawCall unread(OwnChannel(), kCreateImage);
  unread.Send(kDrawA);
  while (encoded == 0) absl::SleepFor(absl::Milliseconds(1));  // the other's has all of its drawing before it
  const auto other = OwnConnection();
  v1::CreateImageRequest request;
  request.set_prompt("b");
  v1::CreateImageResponse response;
  {
    grpc::ClientContext context;
    const grpc::Status refused = other->CreateImage(&context, request, &response);
    EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_THAT(refused.error_message(), HasSubstr("server.answer_bytes"));
    EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(refused).has_value());
  }
  grpc::ClientContext stream;
  EXPECT_TRUE(ReadAll(other->Generate(&stream, Request("c")).get()).status.ok());
  EXPECT_TRUE(unread.Rest().ok());
  AwaitCalls(3);
  grpc::ClientContext context;
  ASSERT_TRUE(other->CreateImage(&context, request, &response).ok());
  EXPECT_EQ(response.data(0).b64_json().size(), size_t{24 << 20});
}

// Its caller may be reading without a pause, which gRPC does not say before the whole of it is taken.
TEST_F(ServiceTest, AWholeAnswerHasTheTimeThatItsSizeTakes) {
  Options options;
  options.rpc.slow_reader_limit = absl::Milliseconds(200);
  options.rpc.slow_reader_rate = 1024;  // hours
  // More than gRPC's windows hold.
  options.scheduler.encoder = [](const Image&, const EncodeOptions&) { return std::string(24 << 20, 'x'); };
  Start(options);
  RawCall whole(OwnChannel(), kCreateImage);
  whole.Send(kDrawA);
  // A stream that begins to be written later, of which nothing is taken for the limit.
  const auto other = OwnConnection();
  OpenCall stream(other.get(), Request("b"));
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake RESOURCE_EXHAUSTED"));
  std::string answer;
  const grpc::Status status = whole.Rest(&answer);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_GT(answer.size(), size_t{24 << 20});
  EXPECT_EQ(stream.Rest().status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ServiceTest, AnAnswerThatNobodyTakesIsGivenUp) {
  Options options;
  options.rpc.slow_reader_limit = absl::Milliseconds(200);
  options.rpc.slow_reader_rate = 1 << 30;
  options.scheduler.encoder = [](const Image&, const EncodeOptions&) { return std::string(24 << 20, 'x'); };
  Start(options);
  RawCall call(channel_, kCreateImage);
  call.Send(kDrawA);
  // Nothing is read.
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake RESOURCE_EXHAUSTED"));
  EXPECT_THAT(AwaitLog(1).back(), HasSubstr("read nothing for too long"));
  const grpc::Status status = call.Rest();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("read nothing for too long"));
}

}  // namespace
}  // namespace fresco
