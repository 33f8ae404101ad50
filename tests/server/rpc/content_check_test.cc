// A deployment's own say on prompts and pictures, by a service of the test's.
#include <google/rpc/error_details.pb.h>

#include <set>
#include <string>
#include <vector>

#include "fresco/v1/content_check.grpc.pb.h"
#include "gmock/gmock.h"
#include "tests/server/rpc/service_fixture.h"
#include "tests/support/gate.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Allows all texts but "bad", and all pictures but those of requests named "bad-picture".
class Checker final : public v1::ContentCheckService::Service {
 public:
  grpc::Status CheckPrompt(grpc::ServerContext*, const v1::CheckPromptRequest* question,
                           v1::CheckPromptResponse* answer) override {
    gate.Pass();
    {
      MutexLock lock(&mutex_);
      prompts_.push_back(*question);
    }
    std::set<std::string> texts(question->prompts().begin(), question->prompts().end());
    texts.insert(question->negative_prompts().begin(), question->negative_prompts().end());
    answer->set_allowed(!texts.contains("bad"));
    answer->set_reason("it is bad");
    return texts.contains("broken") ? grpc::Status(grpc::StatusCode::INTERNAL, "broken") : grpc::Status::OK;
  }
  grpc::Status CheckPicture(grpc::ServerContext*, const v1::CheckPictureRequest* question,
                            v1::CheckPictureResponse* answer) override {
    MutexLock lock(&mutex_);
    pictures_.push_back(*question);
    answer->set_allowed(question->request_id() != "bad-picture");
    answer->set_reason("it shows too much");
    return grpc::Status::OK;
  }

  std::vector<v1::CheckPromptRequest> prompts() {
    MutexLock lock(&mutex_);
    return prompts_;
  }
  std::vector<v1::CheckPictureRequest> pictures() {
    MutexLock lock(&mutex_);
    return pictures_;
  }

  Gate gate;

 private:
  Mutex mutex_;
  std::vector<v1::CheckPromptRequest> prompts_ FRESCO_GUARDED_BY(mutex_);
  std::vector<v1::CheckPictureRequest> pictures_ FRESCO_GUARDED_BY(mutex_);
};

class ContentCheckTest : public ServiceTest {
 protected:
  ContentCheckTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&checks_);
    check_server_ = builder.BuildAndStart();
    config_.address = "127.0.0.1:" + std::to_string(port);
    config_.timeout = absl::Seconds(60);
  }
  ~ContentCheckTest() override {
    checks_.gate.Open();
    check_server_->Shutdown();
  }

  void StartChecked(LoadPolicy load = LoadPolicy::kStartup) {
    Options options;
    options.content_check = config_;
    options.rpc.tenant_header = true;
    options.managed = {{"fake", {"cpu"}, load}};
    Start(options);
  }

  Checker checks_;
  std::unique_ptr<grpc::Server> check_server_;
  ContentCheckConfig config_;
};

TEST_F(ContentCheckTest, WhatIsAllowedIsDrawn) {
  StartChecked();
  v1::GenerateRequest request = Request("good");
  request.set_negative_prompt("ugly");
  request.set_prompt_3("longer");
  request.set_image_count(2);
  request.set_request_id("mine");
  OpenCall call(stub_.get(), request, absl::InfiniteDuration(), "studio");
  EXPECT_TRUE(call.Rest().status.ok());
  ASSERT_EQ(checks_.prompts().size(), 1u);
  const v1::CheckPromptRequest question = checks_.prompts().front();
  EXPECT_EQ(question.tenant(), "studio");
  EXPECT_EQ(question.request_id(), "mine");
  EXPECT_EQ(question.model(), "fake");
  EXPECT_THAT(question.prompts(), ElementsAre("good", "longer"));
  EXPECT_THAT(question.negative_prompts(), ElementsAre("ugly"));
  EXPECT_TRUE(checks_.pictures().empty());  // was not asked for
}

TEST_F(ContentCheckTest, WhatIsNotAllowedIsRefusedWithItsReason) {
  StartChecked();
  v1::GenerateRequest negative = Request("good");
  negative.set_negative_prompt("bad");
  for (const v1::GenerateRequest& request : {Request("bad"), negative}) {
    const grpc::Status status = Generate(request).status;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("is not allowed here: it is bad"));
    const auto bad = DetailOf<google::rpc::BadRequest>(status);
    ASSERT_TRUE(bad.has_value());
    EXPECT_EQ(bad->field_violations(0).field(), "prompt");
  }
  EXPECT_TRUE(script_->steps().empty());
  EXPECT_TRUE(Generate(Request("good")).status.ok());
}

TEST_F(ContentCheckTest, WhereNobodyAnswersNothingIsDrawnUnlessThatIsAllowed) {
  StartChecked();
  const grpc::Status broken = Generate(Request("broken")).status;
  EXPECT_EQ(broken.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(broken).has_value());
  check_server_->Shutdown();
  EXPECT_EQ(Generate(Request("good")).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(script_->steps().empty());
}

TEST_F(ContentCheckTest, WhereNobodyAnswersAllIsDrawnIfThatIsAllowed) {
  config_.allow_when_unreachable = true;
  StartChecked();
  check_server_->Shutdown();
  EXPECT_TRUE(Generate(Request("good")).status.ok());
}

TEST_F(ContentCheckTest, AnAnswerThatDoesNotComeInTimeIsNone) {
  config_.timeout = absl::Milliseconds(50);
  StartChecked();
  checks_.gate.Close();
  EXPECT_EQ(Generate(Request("good")).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  checks_.gate.Open();
}

// A caller who does not wait for the answer is not drawn for.
TEST_F(ContentCheckTest, WhoLeavesMeanwhileIsNotDrawnFor) {
  StartChecked();
  checks_.gate.Close();
  {
    OpenCall call(stub_.get(), Request("good"));
    checks_.gate.AwaitBlocked();
    call.Hangup();
    EXPECT_EQ(call.Rest().status.error_code(), grpc::StatusCode::CANCELLED);
  }
  AwaitCalls(1);
  checks_.gate.Open();
  EXPECT_TRUE(Generate(Request("next")).status.ok());
  for (const FakeStep& step : script_->steps()) EXPECT_EQ(step.images.front().prompt, "next");
}

TEST_F(ContentCheckTest, WhatWaitsForTheAnswerIsCancelledByTheIdThatItWasGiven) {
  StartChecked(LoadPolicy::kOnDemand);  // who waits for a model is told its id
  checks_.gate.Close();
  OpenCall call(stub_.get(), Request("good"));
  const std::string id = call.Next().queued().request_id();
  checks_.gate.AwaitBlocked();
  EXPECT_EQ(CancelAs("", id), grpc::StatusCode::OK);
  EXPECT_EQ(call.Rest().status.error_code(), grpc::StatusCode::CANCELLED);
  AwaitCalls(1);
  checks_.gate.Open();
  EXPECT_TRUE(Generate(Request("next")).status.ok());
  for (const FakeStep& step : script_->steps()) EXPECT_EQ(step.images.front().prompt, "next");
}

// The model comes first, then the question, then the drawing.
TEST_F(ContentCheckTest, AModelThatIsLoadedForItIsNoWayAround) {
  StartChecked(LoadPolicy::kOnDemand);
  EXPECT_EQ(Generate(Request("bad")).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Generate(Request("good")).status.ok());
  EXPECT_EQ(checks_.prompts().size(), 2u);
}

TEST_F(ContentCheckTest, PicturesAreCheckedWhereThatIsAskedFor) {
  config_.pictures = true;
  StartChecked();
  v1::GenerateRequest request = Request("good");
  request.set_image_count(2);
  const Drawn drawn = Generate(request);
  EXPECT_TRUE(drawn.status.ok());
  ASSERT_EQ(checks_.pictures().size(), 2u);
  std::map<int, std::string> seen;
  for (const v1::CheckPictureRequest& question : checks_.pictures()) {
    EXPECT_EQ(question.mime_type(), "image/png");
    seen[question.image_index()] = question.data();
  }
  EXPECT_EQ(seen, drawn.images());  // as the caller gets them
  request.set_request_id("bad-picture");
  const Drawn refused = Generate(request);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("is not handed out: it shows too much"));
  EXPECT_TRUE(refused.chunks().empty());
}

}  // namespace
}  // namespace fresco
