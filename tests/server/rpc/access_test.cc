// Who may call what, over the wire.
#include <google/rpc/error_details.pb.h>

#include <deque>
#include <string>

#include "gmock/gmock.h"
#include "server/auth/authenticator.h"
#include "tests/server/rpc/service_fixture.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kReflection[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
// message ServerReflectionRequest { string list_services = 7; }
constexpr char kListServices[] = "\x3a\x01*";

TokenEntry Entry(const std::string& name, Scope scope) {
  TokenEntry entry;
  entry.name = name;
  entry.digest = DigestOf(name + "-secret");
  entry.tenant = name;
  entry.scopes.set(static_cast<size_t>(scope));
  return entry;
}

class AccessTest : public ServiceTest {
 protected:
  // No call is under way when who knows callers goes; the locks are for ThreadSanitizer, which sees none of gRPC's own.
  ~AccessTest() override {
    server_->Shutdown(absl::ZeroDuration());
    callers_.Replace({});
    AwaitCalls(0);
  }

  // Tokens are "NAME-secret".
  void StartFor(std::vector<TokenEntry> entries) {
    callers_.Replace(std::move(entries));
    Options options;
    options.callers = &callers_;
    options.log.format = LogFormat::kJson;
    Start(options);
  }
  static void Show(grpc::ClientContext* context, const std::string& name) {
    if (!name.empty()) context->AddMetadata("authorization", "Bearer " + name + "-secret");
  }

  grpc::Status Draw(const std::string& name) {
    grpc::ClientContext context;
    Show(&context, name);
    return ReadAll(stub_->Generate(&context, Request("a")).get()).status;
  }
  grpc::Status Create(const std::string& name) {
    grpc::ClientContext context;
    Show(&context, name);
    v1::CreateImageRequest request;
    v1::CreateImageResponse response;
    return stub_->CreateImage(&context, request, &response);
  }
  grpc::Status List(const std::string& name) {
    grpc::ClientContext context;
    Show(&context, name);
    v1::ListModelsResponse response;
    return stub_->ListModels(&context, {}, &response);
  }
  grpc::Status Cancel(const std::string& name) {
    grpc::ClientContext context;
    Show(&context, name);
    v1::CancelRequest request;
    request.set_request_id("none");
    v1::CancelResponse response;
    return stub_->Cancel(&context, request, &response);
  }
  template <typename Request, typename Response>
  grpc::Status Operate(grpc::Status (v1::Operations::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                       const std::string& name) {
    grpc::ClientContext context;
    Show(&context, name);
    Request request;
    Response response;
    return (operations_.get()->*method)(&context, request, &response);
  }
  // UNAUTHENTICATED for whoever is turned away at the door; what is answered to those who are let in is another matter.
  std::vector<grpc::StatusCode> Operations(const std::string& name) {
    std::vector<grpc::StatusCode> codes;
    for (const grpc::Status& status :
         {Operate(&v1::Operations::Stub::GetStatus, name), Operate(&v1::Operations::Stub::LoadModel, name),
          Operate(&v1::Operations::Stub::UnloadModel, name), Operate(&v1::Operations::Stub::Drain, name)}) {
      codes.push_back(status.error_code());
    }
    grpc::ClientContext context;
    Show(&context, name);
    codes.push_back(operations_->Profile(&context, v1::ProfileRequest())->Finish().error_code());
    return codes;
  }
  grpc::Status Reflect(const std::string& name, std::string* response) {
    RawCall call(channel_, kReflection, name.empty() ? "" : "Bearer " + name + "-secret");
    call.Send(std::string(kListServices));
    return call.Rest(response);
  }

  SystemClock time_;
  Authenticator callers_{{}, &time_};
};

TEST_F(AccessTest, WhoIsNotKnownGetsNothingButHealth) {
  StartFor({Entry("draw", Scope::kGenerate)});
  for (const std::string& name : {std::string(), std::string("nobody")}) {
    for (const grpc::Status& status : {Draw(name), Create(name), List(name), Cancel(name)}) {
      EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << status.error_message();
    }
    for (const grpc::StatusCode code : Operations(name)) EXPECT_EQ(code, grpc::StatusCode::UNAUTHENTICATED);
    std::string response;
    EXPECT_EQ(Reflect(name, &response).error_code(), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(response, "");
  }
  EXPECT_THAT(Draw("").error_message(), HasSubstr("authorization: Bearer"));
  EXPECT_EQ(Health(""), "SERVING");  // of whoever looks after the process
  EXPECT_EQ(Health("fake"), "SERVING");
  EXPECT_TRUE(script_->steps().empty());
}

TEST_F(AccessTest, EachMayDoWhatItsScopesSay) {
  StartFor({Entry("draw", Scope::kGenerate), Entry("operate", Scope::kOperate), Entry("ask", Scope::kReflect)});
  EXPECT_TRUE(Draw("draw").ok());
  EXPECT_TRUE(Create("draw").ok());
  EXPECT_EQ(Cancel("draw").error_code(), grpc::StatusCode::NOT_FOUND);
  for (const std::string& name : {std::string("operate"), std::string("ask")}) {
    EXPECT_EQ(Draw(name).error_code(), grpc::StatusCode::PERMISSION_DENIED);
    EXPECT_EQ(Create(name).error_code(), grpc::StatusCode::PERMISSION_DENIED);
    EXPECT_EQ(Cancel(name).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  }
  for (const std::string& name : {std::string("draw"), std::string("operate"), std::string("ask")}) {
    EXPECT_TRUE(List(name).ok()) << name;
  }
  std::string response;
  EXPECT_EQ(Reflect("draw", &response).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(Reflect("ask", &response).ok());
  EXPECT_THAT(response, HasSubstr("fresco.v1.Operations"));
  for (const grpc::StatusCode code : Operations("draw")) EXPECT_EQ(code, grpc::StatusCode::PERMISSION_DENIED);
  for (const grpc::StatusCode code : Operations("operate")) {
    EXPECT_NE(code, grpc::StatusCode::PERMISSION_DENIED);
    EXPECT_NE(code, grpc::StatusCode::UNAUTHENTICATED);
  }
}

TEST_F(AccessTest, ATokenIsItsTenant) {
  StartFor({Entry("one", Scope::kGenerate), Entry("two", Scope::kGenerate)});
  script_->step_gate()->Close();
  grpc::ClientContext context;
  Show(&context, "one");
  v1::GenerateRequest request = Request("a");
  request.set_request_id("mine");
  const auto reader = stub_->Generate(&context, request);
  v1::GenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  v1::CancelRequest cancel;
  cancel.set_request_id("mine");
  for (const std::string& name : {std::string("two"), std::string("one")}) {
    grpc::ClientContext other;
    Show(&other, name);
    v1::CancelResponse response;
    EXPECT_EQ(stub_->Cancel(&other, cancel, &response).error_code(),
              name == "one" ? grpc::StatusCode::OK : grpc::StatusCode::NOT_FOUND);
  }
  script_->step_gate()->Open();
  EXPECT_EQ(ReadAll(reader.get()).status.error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(AccessTest, TooManyCallsAreToldWhenToComeBack) {
  TokenEntry slow = Entry("slow", Scope::kGenerate);
  slow.requests_per_minute = 1;
  slow.burst = 2;
  StartFor({slow, Entry("other", Scope::kGenerate)});
  EXPECT_TRUE(Draw("slow").ok());
  EXPECT_TRUE(Create("slow").ok());
  for (const grpc::Status& status : {Draw("slow"), Create("slow")}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    const auto retry = DetailOf<google::rpc::RetryInfo>(status);
    ASSERT_TRUE(retry.has_value());
    EXPECT_GT(retry->retry_delay().seconds(), 0);
    EXPECT_LE(retry->retry_delay().seconds(), 60);
  }
  EXPECT_TRUE(Draw("other").ok());
}

// Who joins waits for one drawing with the others; who asks for what is kept can do so without end.
TEST_F(AccessTest, WhoJoinsIsNotCountedAndWhoIsGivenWhatIsKeptIs) {
  TokenEntry slow = Entry("slow", Scope::kGenerate);
  slow.requests_per_minute = 1;
  slow.burst = 3;
  StartFor({slow});
  script_->step_gate()->Close();
  v1::GenerateRequest request = Request("a");
  request.set_request_id("once");
  grpc::ClientContext contexts[5];
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>>> calls;
  for (grpc::ClientContext& context : contexts) {
    Show(&context, "slow");
    calls.push_back(stub_->Generate(&context, request));
    v1::GenerateEvent event;
    ASSERT_TRUE(calls.back()->Read(&event));
  }
  script_->step_gate()->Open();
  for (const auto& call : calls) EXPECT_TRUE(ReadAll(call.get()).status.ok());
  std::vector<grpc::StatusCode> codes;
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    Show(&context, "slow");
    codes.push_back(ReadAll(stub_->Generate(&context, request).get()).status.error_code());
  }
  EXPECT_THAT(codes, ElementsAre(grpc::StatusCode::OK, grpc::StatusCode::OK, grpc::StatusCode::RESOURCE_EXHAUSTED));
  EXPECT_EQ(script_->preparations().size(), 1u);
}

TEST_F(AccessTest, OpenCallsAreBoundedUntilTheyEnd) {
  TokenEntry one = Entry("one", Scope::kGenerate);
  one.max_concurrent = 1;
  StartFor({one});
  script_->step_gate()->Close();
  grpc::ClientContext context;
  Show(&context, "one");
  const auto reader = stub_->Generate(&context, Request("a"));
  v1::GenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(Draw("one").error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  script_->step_gate()->Open();
  EXPECT_TRUE(ReadAll(reader.get()).status.ok());
  AwaitLog(2);  // the server's side of the call has ended too
  while (true) {
    const grpc::Status status = Draw("one");
    if (status.ok()) break;
    ASSERT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  }
}

// An operator finds who did what, and nobody's token.
TEST_F(AccessTest, TheLogSaysWhoAndNeverTheToken) {
  StartFor({Entry("draw", Scope::kGenerate), Entry("operate", Scope::kOperate)});
  EXPECT_TRUE(Draw("draw").ok());
  EXPECT_EQ(AwaitLog(1).size(), 1u);
  EXPECT_EQ(Operate(&v1::Operations::Stub::Drain, "draw").error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(Operate(&v1::Operations::Stub::Drain, "operate").ok());
  const std::vector<std::string> lines = AwaitLog(3);
  EXPECT_THAT(lines[0], AllOf(HasSubstr("\"event\":\"request\""), HasSubstr("\"token\":\"draw\""),
                              HasSubstr("\"tenant\":\"draw\"")));
  EXPECT_THAT(lines[1],
              AllOf(HasSubstr("\"event\":\"denied\""), HasSubstr("\"method\":\"Drain\""),
                    HasSubstr("\"code\":\"PERMISSION_DENIED\""), HasSubstr("'draw'"), HasSubstr("\"peer\":")));
  EXPECT_THAT(lines[2], AllOf(HasSubstr("\"event\":\"draining\""), HasSubstr("\"token\":\"operate\"")));
  for (const std::string& line : lines) EXPECT_THAT(line, Not(HasSubstr("secret")));
}

// The file is written anew while calls go on.
TEST_F(AccessTest, ARotatedTokenCountsAtOnce) {
  StartFor({Entry("draw", Scope::kGenerate)});
  EXPECT_TRUE(Draw("draw").ok());
  TokenEntry rotated = Entry("draw", Scope::kGenerate);
  rotated.digest = DigestOf("other-secret");
  callers_.Replace({rotated});
  EXPECT_EQ(Draw("draw").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(Draw("other").ok());
}

}  // namespace
}  // namespace fresco
