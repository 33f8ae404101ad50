// Calls that ask again for what has been asked for, by the same request_id.
#include <atomic>
#include <memory>
#include <random>
#include <thread>

#include "gmock/gmock.h"
#include "pipeline/image/codec.h"
#include "tests/server/rpc/service_fixture.h"
#include "tests/support/gate.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr int kSteps = 4;  // of a picture

class JoiningTest : public ServiceTest {
 protected:
  static v1::GenerateRequest Named(const std::string& id, const std::string& prompt = "a") {
    v1::GenerateRequest request = Request(prompt);
    request.set_request_id(id);
    return request;
  }
  static v1::CreateImageRequest NamedImage(const std::string& id) {
    v1::CreateImageRequest request;
    request.set_prompt("a");
    request.set_request_id(id);
    return request;
  }

  // Until it is in its first step, which ends when the gate opens.
  void StartBlocked(Options options = {}) {
    Start(std::move(options));
    script_->step_gate()->Close();
  }

  // With one model, which is loaded for who asks for it. `load` may be running when the test's body has ended.
  void StartOnDemand(decltype(Options::load) load) {
    Options options;
    ManagedModel model = {"a", {"cpu"}};
    model.load = LoadPolicy::kOnDemand;
    options.managed = {model};
    options.load = std::move(load);
    Start(options);
  }

  grpc::Status Create(const v1::CreateImageRequest& request, v1::CreateImageResponse* response,
                      const std::string& idempotency_key = "") {
    grpc::ClientContext context;
    if (!idempotency_key.empty()) context.AddMetadata("idempotency-key", idempotency_key);
    return stub_->CreateImage(&context, request, response);
  }

  grpc::Status Cancel(const std::string& id) {
    grpc::ClientContext context;
    v1::CancelRequest request;
    request.set_request_id(id);
    v1::CancelResponse response;
    return stub_->Cancel(&context, request, &response);
  }

  void AwaitNothingDrawn() const {
    while (script_->live_jobs() > 0) absl::SleepFor(absl::Milliseconds(1));
  }
};

TEST_F(JoiningTest, WhoAsksForWhatRunsGetsTheSamePictureWhichIsDrawnOnce) {
  Options options;
  options.log.format = LogFormat::kJson;
  StartBlocked(options);
  OpenCall first(stub_.get(), Named("x"));
  script_->step_gate()->AwaitBlocked();
  OpenCall second(stub_.get(), Named("x"));
  const v1::GenerateEvent queued = second.Next();
  EXPECT_EQ(queued.queued().request_id(), "x");
  EXPECT_EQ(queued.queued().position(), 0);
  EXPECT_EQ(second.Next().started().device(), "cpu");
  script_->step_gate()->Open();
  const Drawn one = first.Rest(), two = second.Rest();
  ASSERT_TRUE(one.status.ok() && two.status.ok()) << one.status.error_message() << two.status.error_message();
  EXPECT_EQ(two.order(), "pic");
  EXPECT_EQ(one.images(), two.images());
  EXPECT_EQ(one.seeds(), two.seeds());  // though nobody has said one
  EXPECT_EQ(script_->steps().size(), size_t{kSteps});
  EXPECT_THAT(Shares(), ElementsAre("joined"));
  EXPECT_THAT(AwaitCalls(2), ElementsAre("fake OK", "fake OK"));
  const std::vector<std::string> log = AwaitLog(2);
  EXPECT_THAT(log, ::testing::UnorderedElementsAre(
                       AllOf(HasSubstr("\"shared\":\"joined\""), HasSubstr("\"steps\":4"), HasSubstr("\"seed\":")),
                       Not(HasSubstr("\"shared\""))));
}

TEST_F(JoiningTest, WhoComesLateGetsThePicturesThatAreDrawnAlready) {
  Options options;
  options.scheduler.max_batch = 1;
  StartBlocked(options);
  v1::GenerateRequest request = Named("x");
  request.set_image_count(2);
  request.set_preview_every(1);
  OpenCall first(stub_.get(), request);
  script_->step_gate()->Allow(kSteps + 2);  // of twice kSteps
  while (!first.Next().has_image()) continue;
  script_->step_gate()->AwaitBlocked();
  OpenCall second(stub_.get(), request);
  EXPECT_TRUE(second.Next().has_queued());
  EXPECT_TRUE(second.Next().has_started());
  const v1::GenerateEvent image = second.Next();
  ASSERT_TRUE(image.has_image());
  EXPECT_EQ(image.image().image_index(), 0);
  EXPECT_TRUE(image.image().has_provenance());
  script_->step_gate()->Open();
  const Drawn rest = second.Rest();
  ASSERT_TRUE(rest.status.ok()) << rest.status.error_message();
  EXPECT_EQ(rest.order(), "pic");
  for (const v1::GenerateEvent& event : rest.events) {
    if (event.has_progress()) {
      EXPECT_EQ(event.progress().image_index(), 1);
    }
  }
  EXPECT_EQ(rest.images().count(1), 1u);
  EXPECT_TRUE(first.Rest().status.ok());
  EXPECT_EQ(script_->steps().size(), size_t{2 * kSteps});
}

TEST_F(JoiningTest, WhoIsInTheQueueIsToldItsPlaceTwice) {
  Options options;
  options.scheduler.max_batch = 1;
  StartBlocked(options);
  OpenCall running(stub_.get(), Named("running"));
  script_->step_gate()->AwaitBlocked();
  OpenCall before(stub_.get(), Named("before"));
  EXPECT_EQ(before.Next().queued().position(), 0);
  OpenCall first(stub_.get(), Named("x"));
  EXPECT_EQ(first.Next().queued().position(), 1);
  OpenCall second(stub_.get(), Named("x"));
  EXPECT_EQ(second.Next().queued().position(), 1);
  script_->step_gate()->Open();
  for (OpenCall* call : {&running, &before, &first, &second}) EXPECT_TRUE(call->Rest().status.ok());
}

TEST_F(JoiningTest, WhatHasBeenDrawnIsKeptForWhoAsksAgain) {
  Options options;
  options.log.format = LogFormat::kJson;
  Start(options);
  v1::GenerateRequest request = Named("x", std::string(100, 'x'));  // too long for the model, which says so
  request.set_image_count(2);
  const Drawn first = Generate(request);
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  AwaitLog(1);  // a client has its status before the server has logged it: the second line is the second call's now
  const size_t steps = script_->steps().size();
  const Drawn again = Generate(request);
  ASSERT_TRUE(again.status.ok()) << again.status.error_message();
  EXPECT_EQ(again.order(), "qsic");
  EXPECT_EQ(again.events.front().queued().request_id(), "x");
  EXPECT_EQ(again.images(), first.images());
  EXPECT_EQ(again.seeds(), first.seeds());
  EXPECT_EQ(again.chunks().front().provenance().SerializeAsString(),
            first.chunks().front().provenance().SerializeAsString());
  EXPECT_EQ(again.events.back().SerializeAsString(), first.events.back().SerializeAsString());
  EXPECT_EQ(again.events.back().completed().warnings_size(), 1);
  EXPECT_EQ(script_->steps().size(), steps);
  EXPECT_THAT(Shares(), ElementsAre("served"));
  EXPECT_GT(held(), 0);
  EXPECT_THAT(AwaitLog(2).back(), AllOf(HasSubstr("\"shared\":\"kept\""), HasSubstr("\"id\":\"x\"")));
}

// Larger than gRPC's windows, in many chunks, to callers who read at different times.
TEST_F(JoiningTest, LargePicturesReachEverybodyWhole) {
  std::mt19937 random(1);
  std::string big(9'500'001, '\0');
  for (char& byte : big) byte = static_cast<char>(random());
  Options options;
  options.scheduler.encoder = [&](const Image&, const EncodeOptions&) { return big; };
  StartBlocked(options);
  // At once: on one connection who does not read holds up the others.
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) callers.emplace_back([&] { EXPECT_TRUE(Generate(Named("x")).images()[0] == big); });
  AwaitShares(3);
  script_->step_gate()->Open();
  for (std::thread& caller : callers) caller.join();
  EXPECT_TRUE(Generate(Named("x")).images()[0] == big);
  EXPECT_EQ(script_->steps().size(), size_t{kSteps});
  // However many have it, it is there once.
  EXPECT_LT(held(), static_cast<int64_t>(big.size()) + (64 << 10));
}

TEST_F(JoiningTest, AnotherTenantsRequestIsAnother) {
  Options options;
  options.rpc.tenant_header = true;
  StartBlocked(options);
  OpenCall one(stub_.get(), Named("x"), absl::InfiniteDuration(), "one");
  script_->step_gate()->AwaitBlocked();
  OpenCall two(stub_.get(), Named("x"), absl::InfiniteDuration(), "two");
  OpenCall nobodys(stub_.get(), Named("x"));
  EXPECT_TRUE(two.Next().has_queued());
  EXPECT_TRUE(nobodys.Next().has_queued());
  script_->step_gate()->Open();
  const Drawn drawn = one.Rest();
  EXPECT_TRUE(drawn.status.ok());
  EXPECT_NE(two.Rest().seeds(), drawn.seeds());
  EXPECT_NE(nobodys.Rest().seeds(), drawn.seeds());
  // Nor is what is kept.
  OpenCall three(stub_.get(), Named("x"), absl::InfiniteDuration(), "three");
  EXPECT_NE(three.Rest().seeds(), drawn.seeds());
  EXPECT_THAT(Shares(), IsEmpty());
  OpenCall again(stub_.get(), Named("x"), absl::InfiniteDuration(), "one");
  EXPECT_EQ(again.Rest().seeds(), drawn.seeds());
}

TEST_F(JoiningTest, AnotherRequestOfTheSameIdIsRefusedWithWhatDiffers) {
  StartBlocked();
  OpenCall first(stub_.get(), Named("x"));
  script_->step_gate()->AwaitBlocked();
  v1::GenerateRequest other = Named("x", "b");
  other.set_seed(1);
  const auto refused = [&](const std::string& state) {
    const grpc::Status status = Generate(other).status;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
    EXPECT_THAT(status.error_message(),
                AllOf(HasSubstr("'x' " + state), HasSubstr("differs from this one in prompt, seed")));
    // The same words by another method are another request, too.
    v1::CreateImageResponse response;
    const grpc::Status by_other_method = Create(NamedImage("x"), &response);
    EXPECT_EQ(by_other_method.error_code(), grpc::StatusCode::ALREADY_EXISTS);
    EXPECT_THAT(by_other_method.error_message(), HasSubstr("by Generate and not CreateImage"));
  };
  refused("is running already");
  script_->step_gate()->Open();
  EXPECT_TRUE(first.Rest().status.ok());
  refused("has been drawn already");
  EXPECT_TRUE(Generate(Named("x")).status.ok());
}

TEST_F(JoiningTest, CreateImageIsJoinedAndKeptToo) {
  StartBlocked();
  v1::CreateImageResponse one, two, three;
  std::thread first([&] { EXPECT_TRUE(Create(NamedImage("x"), &one).ok()); });
  script_->step_gate()->AwaitBlocked();
  std::thread second([&] { EXPECT_TRUE(Create(NamedImage("x"), &two).ok()); });
  AwaitShares(1);
  script_->step_gate()->Open();
  first.join();
  second.join();
  EXPECT_TRUE(Create(NamedImage("x"), &three).ok());
  ASSERT_EQ(one.data_size(), 1);
  for (const v1::CreateImageResponse* other : {&two, &three}) {
    ASSERT_EQ(other->data_size(), 1);
    EXPECT_EQ(other->data(0).b64_json(), one.data(0).b64_json());
    EXPECT_EQ(other->data(0).seed(), one.data(0).seed());
    EXPECT_EQ(other->size(), one.size());
  }
  EXPECT_THAT(Shares(), ElementsAre("joined", "served"));
}

// Far more of them than there is memory for, would each have the picture for itself.
TEST_F(JoiningTest, ManyWhoReadNothingYetHoldOnePicture) {
  const std::string big(6'000'000, 'x');
  Options options;
  options.rpc.connections.answer_bytes = 10'000'000;
  options.scheduler.encoder = [&](const Image&, const EncodeOptions&) { return big; };
  Start(options);
  {
    grpc::ClientContext context;
    v1::CreateImageResponse first;
    ASSERT_TRUE(OwnConnection()->CreateImage(&context, NamedImage("x"), &first).ok());
  }
  const std::shared_ptr<grpc::Channel> channel = OwnChannel();
  std::vector<std::unique_ptr<RawCall>> unread;
  for (int i = 0; i < 10; ++i) {
    unread.push_back(std::make_unique<RawCall>(channel, "/fresco.v1.ImageGeneration/CreateImage"));
    unread.back()->Send(NamedImage("x").SerializeAsString());
  }
  AwaitShares(unread.size());
  // At once: on one connection who does not read holds up the others.
  std::vector<std::thread> readers;
  for (const auto& call : unread) {
    readers.emplace_back([&] {
      std::string bytes;
      const grpc::Status status = call->Rest(&bytes);
      EXPECT_TRUE(status.ok()) << status.error_message();
      v1::CreateImageResponse response;
      EXPECT_TRUE(response.ParseFromString(bytes));
      ASSERT_EQ(response.data_size(), 1);
      EXPECT_TRUE(response.data(0).b64_json() == big);
    });
  }
  for (std::thread& reader : readers) reader.join();
}

TEST_F(JoiningTest, AnIdempotencyKeyNamesAnImageWhereNothingElseDoes) {
  Start();
  v1::CreateImageResponse one, two, three, four;
  EXPECT_TRUE(Create(NamedImage(""), &one, "retry-7").ok());
  EXPECT_TRUE(Create(NamedImage(""), &two, "retry-7").ok());
  EXPECT_EQ(one.data(0).seed(), two.data(0).seed());
  // It is the same name as in the request.
  EXPECT_TRUE(Create(NamedImage("retry-7"), &three, "another").ok());
  EXPECT_EQ(one.data(0).seed(), three.data(0).seed());
  // What is no name is none.
  EXPECT_TRUE(Create(NamedImage(""), &three, "not a name").ok());
  EXPECT_TRUE(Create(NamedImage(""), &four, "not a name").ok());
  EXPECT_NE(three.data(0).seed(), four.data(0).seed());
  EXPECT_EQ(Create(NamedImage("not a name"), &four).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(JoiningTest, ARequestWithoutAnIdIsNobodyElses) {
  Start();
  EXPECT_NE(Generate(Request("a")).seeds(), Generate(Request("a")).seeds());
  EXPECT_EQ(held(), 0);
}

TEST_F(JoiningTest, TheFirstMayLeaveAndTheOtherGoesOn) {
  StartBlocked();
  OpenCall first(stub_.get(), Named("x"));
  script_->step_gate()->AwaitBlocked();
  OpenCall second(stub_.get(), Named("x"));
  EXPECT_TRUE(second.Next().has_queued());
  first.Hangup();
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake CANCELLED"));
  script_->step_gate()->Open();
  const Drawn drawn = second.Rest();
  EXPECT_TRUE(drawn.status.ok()) << drawn.status.error_message();
  EXPECT_EQ(drawn.images().size(), 1u);
}

TEST_F(JoiningTest, WhenTheLastLeavesNothingIsDrawnOnAndTheIdIsFreeAtOnce) {
  StartBlocked();
  OpenCall first(stub_.get(), Named("x"));
  script_->step_gate()->AwaitBlocked();
  OpenCall second(stub_.get(), Named("x"));
  EXPECT_TRUE(second.Next().has_queued());
  first.Hangup();
  second.Hangup();
  EXPECT_THAT(AwaitCalls(2), ElementsAre("fake CANCELLED", "fake CANCELLED"));
  // What was left is in its step still.
  OpenCall third(stub_.get(), Named("x"));
  EXPECT_TRUE(third.Next().has_queued());
  script_->step_gate()->Open();
  EXPECT_TRUE(third.Rest().status.ok());
  AwaitNothingDrawn();
  EXPECT_EQ(script_->steps().size(), size_t{1 + kSteps});
  EXPECT_THAT(Shares(), ElementsAre("joined"));
}

TEST_F(JoiningTest, CancelEndsItForAllAndARetryBeginsAnew) {
  StartBlocked();
  OpenCall first(stub_.get(), Named("x"));
  script_->step_gate()->AwaitBlocked();
  OpenCall second(stub_.get(), Named("x"));
  EXPECT_TRUE(second.Next().has_queued());
  EXPECT_TRUE(Cancel("x").ok());
  script_->step_gate()->Open();
  for (OpenCall* call : {&first, &second}) {
    const grpc::Status status = call->Rest().status;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_THAT(status.error_message(), HasSubstr("cancelled by its caller's Cancel"));
  }
  EXPECT_TRUE(Generate(Named("x")).status.ok());
  EXPECT_EQ(Cancel("x").error_code(), grpc::StatusCode::NOT_FOUND);  // what is kept has ended
  EXPECT_TRUE(Generate(Named("x")).status.ok());
  EXPECT_THAT(Shares(), ElementsAre("joined", "served"));
}

TEST_F(JoiningTest, AFailureIsToldToAllAndNotKept) {
  StartBlocked();
  script_->Fail("a", FakeScript::Stage::kStep, absl::DataLossError("the velocity is NaN"), 2);
  OpenCall first(stub_.get(), Named("x"));
  script_->step_gate()->AwaitBlocked();
  OpenCall second(stub_.get(), Named("x"));
  EXPECT_TRUE(second.Next().has_queued());
  script_->step_gate()->Open();
  for (OpenCall* call : {&first, &second}) {
    const Drawn drawn = call->Rest();
    EXPECT_EQ(drawn.status.error_code(), grpc::StatusCode::DATA_LOSS);
    EXPECT_THAT(drawn.status.error_message(), HasSubstr("NaN"));
  }
  script_->Fail("a", FakeScript::Stage::kStep, absl::OkStatus(), 2);
  EXPECT_TRUE(Generate(Named("x")).status.ok());
  EXPECT_THAT(Shares(), ElementsAre("joined"));
}

TEST_F(JoiningTest, OneOfSeveralPicturesIsNoResultWhenAnotherFails) {
  Options options;
  options.scheduler.max_batch = 1;
  std::atomic<int> encoded = 0;
  options.scheduler.encoder = [&](const Image&, const EncodeOptions&) -> absl::StatusOr<std::string> {
    if (++encoded == 2) return absl::InternalError("the second");
    return std::string("a picture");
  };
  Start(options);
  v1::GenerateRequest request = Named("x");
  request.set_image_count(2);
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(held(), 0);
  const Drawn again = Generate(request);
  EXPECT_TRUE(again.status.ok()) << again.status.error_message();
  EXPECT_EQ(again.images().size(), 2u);
  EXPECT_THAT(Shares(), IsEmpty());
}

TEST_F(JoiningTest, ABadRequestIsRefusedEachTime) {
  Start();
  v1::GenerateRequest bad = Named("x");
  bad.set_width(17);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(Generate(bad).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Generate(Named("x")).status.ok());
}

TEST_F(JoiningTest, ADeadlineEndsOneCallAndNoOther) {
  StartBlocked();
  OpenCall patient(stub_.get(), Named("x"));
  script_->step_gate()->AwaitBlocked();
  OpenCall hasty(stub_.get(), Named("x"), absl::Milliseconds(500));
  EXPECT_EQ(hasty.Rest().status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake DEADLINE_EXCEEDED"));
  script_->step_gate()->Open();
  EXPECT_TRUE(patient.Rest().status.ok());
}

TEST_F(JoiningTest, WhoWaitsLongerThanTheFirstGetsItsPicture) {
  StartBlocked();
  OpenCall hasty(stub_.get(), Named("x"), absl::Seconds(1));
  script_->step_gate()->AwaitBlocked();
  OpenCall patient(stub_.get(), Named("x"));
  EXPECT_EQ(hasty.Rest().status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake DEADLINE_EXCEEDED"));
  script_->step_gate()->Open();
  const Drawn drawn = patient.Rest();
  EXPECT_TRUE(drawn.status.ok()) << drawn.status.error_message();
}

TEST_F(JoiningTest, AReaderThatStallsLosesItsOwnCall) {
  Options options;
  options.rpc.slow_reader_limit = absl::Seconds(5);  // who reads takes something of each write in that, however busy
  // More than gRPC's windows hold.
  options.scheduler.encoder = [](const Image&, const EncodeOptions&) { return std::string(24 << 20, 'x'); };
  StartBlocked(options);
  OpenCall stalled(stub_.get(), Named("x"));
  script_->step_gate()->AwaitBlocked();
  const auto other = OwnConnection();
  std::thread reader([&] {
    OpenCall call(other.get(), Named("x"));
    const Drawn drawn = call.Rest();
    EXPECT_TRUE(drawn.status.ok()) << drawn.status.error_message();
    EXPECT_EQ(drawn.images().at(0).size(), size_t{24 << 20});
  });
  AwaitShares(1);
  script_->step_gate()->Open();
  reader.join();
  EXPECT_THAT(AwaitCalls(2), ::testing::UnorderedElementsAre("fake OK", "fake RESOURCE_EXHAUSTED"));
  EXPECT_EQ(stalled.Rest().status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(JoiningTest, NothingIsKeptWhereItIsSwitchedOff) {
  Options options;
  options.rpc.results.keep = absl::ZeroDuration();
  StartBlocked(options);
  OpenCall first(stub_.get(), Named("x"));
  script_->step_gate()->AwaitBlocked();
  OpenCall second(stub_.get(), Named("x"));  // what runs is joined all the same
  EXPECT_TRUE(second.Next().has_queued());
  script_->step_gate()->Open();
  const Drawn drawn = first.Rest();
  EXPECT_EQ(second.Rest().seeds(), drawn.seeds());
  EXPECT_EQ(held(), 0);
  EXPECT_NE(Generate(Named("x")).seeds(), drawn.seeds());
  EXPECT_THAT(Shares(), ElementsAre("joined"));
}

TEST_F(JoiningTest, WhatIsTooLargeToBeHeldIsNeitherJoinedNorKept) {
  Options options;
  options.rpc.results.keep_bytes = 1000;
  options.scheduler.max_batch = 1;
  options.scheduler.encoder = [](const Image&, const EncodeOptions&) { return std::string(2000, 'x'); };
  StartBlocked(options);
  v1::GenerateRequest request = Named("x");
  request.set_image_count(2);
  OpenCall first(stub_.get(), request);
  script_->step_gate()->Allow(kSteps + 2);  // of twice kSteps
  while (!first.Next().has_image()) continue;
  const grpc::Status refused = Generate(request).status;
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_THAT(refused.error_message(), HasSubstr("results.keep_bytes"));
  script_->step_gate()->Open();
  EXPECT_TRUE(first.Rest().status.ok());
  EXPECT_TRUE(Generate(request).status.ok());
  EXPECT_EQ(script_->steps().size(), size_t{4 * kSteps});
  EXPECT_EQ(held(), 0);
}

TEST_F(JoiningTest, AServerThatDrainsServesWhatIsKeptAndWhatRuns) {
  StartBlocked();
  script_->step_gate()->Open();
  const Drawn kept = Generate(Named("kept"));
  script_->step_gate()->Close();
  OpenCall running(stub_.get(), Named("running"));
  script_->step_gate()->AwaitBlocked();
  std::thread drain([&] {
    grpc::ClientContext context;
    v1::DrainResponse left;
    EXPECT_TRUE(operations_->Drain(&context, {}, &left).ok());
  });
  v1::GetStatusResponse state;
  while (!state.draining()) {
    grpc::ClientContext context;
    ASSERT_TRUE(operations_->GetStatus(&context, {}, &state).ok());
  }
  EXPECT_EQ(Generate(Named("new")).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Generate(Named("kept")).seeds(), kept.seeds());
  OpenCall joined(stub_.get(), Named("running"));
  EXPECT_TRUE(joined.Next().has_queued());
  script_->step_gate()->Open();
  EXPECT_EQ(joined.Rest().seeds(), running.Rest().seeds());
  drain.join();
}

TEST_F(JoiningTest, WhatIsKeptOutlivesItsModel) {
  Start();
  const Drawn kept = Generate(Named("x"));
  v1::UnloadModelRequest unload;
  unload.set_model("fake");
  v1::UnloadModelResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(operations_->UnloadModel(&context, unload, &response).ok());
  EXPECT_EQ(Generate(Named("x")).seeds(), kept.seeds());
}

TEST_F(JoiningTest, WhoWaitsForAModelIsJoinedToo) {
  const auto loading = std::make_shared<Gate>();
  loading->Close();
  StartOnDemand([this, loading](const std::string& name, const std::string& device) {
    loading->Pass();
    return std::make_unique<FakeEngine>(FakeModelInfo(name, device), script_, nullptr);
  });
  OpenCall first(stub_.get(), Named("x"));
  EXPECT_TRUE(first.Next().has_queued());
  OpenCall second(stub_.get(), Named("x"));
  OpenCall hasty(stub_.get(), Named("x"), absl::Milliseconds(500));
  EXPECT_EQ(second.Next().queued().request_id(), "x");
  EXPECT_EQ(hasty.Rest().status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  first.Hangup();
  EXPECT_EQ(AwaitCalls(2).size(), 2u);
  loading->Open();
  const Drawn drawn = second.Rest();
  EXPECT_TRUE(drawn.status.ok()) << drawn.status.error_message();
  EXPECT_EQ(drawn.images().size(), 1u);
  EXPECT_EQ(script_->steps().size(), size_t{kSteps});
}

TEST_F(JoiningTest, WhatWaitsForItsModelCanBeCancelled) {
  const auto loading = std::make_shared<Gate>();
  loading->Close();
  StartOnDemand([this, loading](const std::string& name, const std::string& device) {
    loading->Pass();
    return std::make_unique<FakeEngine>(FakeModelInfo(name, device), script_, nullptr);
  });
  OpenCall first(stub_.get(), Named("x"));
  EXPECT_TRUE(first.Next().has_queued());
  OpenCall second(stub_.get(), Named("x"));
  EXPECT_TRUE(second.Next().has_queued());
  EXPECT_TRUE(Cancel("x").ok());
  for (OpenCall* call : {&first, &second}) EXPECT_EQ(call->Rest().status.error_code(), grpc::StatusCode::CANCELLED);
  OpenCall third(stub_.get(), Named("y"));
  EXPECT_TRUE(third.Next().has_queued());
  loading->Open();
  EXPECT_TRUE(third.Rest().status.ok());
  EXPECT_EQ(script_->steps().size(), size_t{kSteps});
}

TEST_F(JoiningTest, WhoWaitsForAModelThatDoesNotComeIsToldAsTheFirstIs) {
  const auto loading = std::make_shared<Gate>();
  loading->Close();
  StartOnDemand([loading](const std::string&, const std::string&) {
    loading->Pass();
    return absl::InternalError("tensor x is cut short");
  });
  OpenCall first(stub_.get(), Named("x"));
  EXPECT_TRUE(first.Next().has_queued());
  OpenCall second(stub_.get(), Named("x"));
  EXPECT_TRUE(second.Next().has_queued());
  loading->Open();
  for (OpenCall* call : {&first, &second}) {
    const grpc::Status status = call->Rest().status;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(status.error_message(), HasSubstr("cut short"));
  }
}

// Callers who come, leave, cancel and come again at any moment: whoever gets an OK has the whole picture, and nothing
// is left of the others.
TEST_F(JoiningTest, CallersWhoComeAndLeaveAtRandomGetAllOrAnError) {
  Options options;
  options.rpc.results.keep = absl::Milliseconds(5);
  options.rpc.results.keep_bytes = 12'000;
  Start(options);
  constexpr int kCallers = 8, kRounds = 25;
  std::atomic<int> drawn = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      std::mt19937 random(caller);
      for (int round = 0; round < kRounds; ++round) {
        const int which = static_cast<int>(random() % 3);
        v1::GenerateRequest request = Named("id" + std::to_string(which));
        request.set_image_count(2);
        request.set_seed(10 * which);
        request.set_preview_every(random() % 8 == 0 ? 2 : 1);  // now and then another request
        OpenCall call(stub_.get(), request);
        const int what = static_cast<int>(random() % 8);
        v1::GenerateEvent event;
        for (int events = static_cast<int>(random() % 6); what < 3 && events > 0 && call.TryNext(&event);) --events;
        if (what == 0) Cancel(request.request_id());
        if (what == 1 || what == 2) call.Hangup();
        const Drawn result = call.Rest();
        const grpc::StatusCode code = result.status.error_code();
        EXPECT_TRUE(code == grpc::StatusCode::OK || code == grpc::StatusCode::CANCELLED ||
                    code == grpc::StatusCode::ALREADY_EXISTS)
            << result.status.error_message();
        if (code != grpc::StatusCode::OK || what < 3) continue;
        ++drawn;
        EXPECT_TRUE(result.events.back().has_completed());
        const std::map<int, std::string> images = result.images();
        ASSERT_EQ(images.size(), 2u);
        for (const auto& [index, bytes] : images) {
          EXPECT_EQ(DecodeImage(bytes)->image.rgb.front(), 10 * which + index);
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(AwaitCalls(kCallers * kRounds).size(), size_t{kCallers * kRounds});
  EXPECT_GT(drawn, 0);
  AwaitNothingDrawn();
  while (held() > 0) absl::SleepFor(absl::Milliseconds(1));  // what is kept is given up without anybody asking
}

}  // namespace
}  // namespace fresco
