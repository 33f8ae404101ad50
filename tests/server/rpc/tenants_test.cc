// Whose a request is, as its caller's metadata says.
#include <google/rpc/error_details.pb.h>

#include <deque>
#include <string>

#include "gmock/gmock.h"
#include "tests/server/rpc/service_fixture.h"

namespace fresco {
namespace {

using ::testing::HasSubstr;

constexpr char kTenant[] = "fresco-tenant";

class TenantsTest : public ServiceTest {
 protected:
  // Steps of one image each, which are expected to take a second.
  static Options WithHeader() {
    Options options;
    options.rpc.tenant_header = true;
    options.scheduler.max_batch = 1;
    options.scheduler.core.fairness_window = absl::ZeroDuration();
    CostModel& costs = options.scheduler.costs;
    for (int rows = 1; rows <= 2; ++rows) costs.RecordStep(costs.Curve("fake", 1), rows, absl::Seconds(1));
    return options;
  }

  // Until the first that is not taken, which it returns.
  grpc::Status Flood(const std::string& tenant, std::deque<OpenCall>* calls) {
    while (true) {
      v1::GenerateRequest request = Request(tenant);
      request.set_request_id(tenant + std::to_string(calls->size()));
      calls->emplace_back(stub_.get(), request, absl::InfiniteDuration(), tenant);
      v1::GenerateEvent event;
      if (calls->back().TryNext(&event)) continue;
      grpc::Status refused = calls->back().Rest().status;
      calls->pop_back();
      return refused;
    }
  }

  grpc::Status CreateAs(const std::string& tenant) {
    grpc::ClientContext context;
    context.AddMetadata(kTenant, tenant);
    v1::CreateImageRequest request;
    request.set_prompt(tenant);
    v1::CreateImageResponse response;
    return stub_->CreateImage(&context, request, &response);
  }

  grpc::Status CancelAs(const std::string& tenant, const std::string& id) {
    grpc::ClientContext context;
    if (!tenant.empty()) context.AddMetadata(kTenant, tenant);
    v1::CancelRequest request;
    request.set_request_id(id);
    v1::CancelResponse response;
    return stub_->Cancel(&context, request, &response);
  }

  // Of another's pictures, before the tenant's is drawn.
  int StepsBefore(const std::string& tenant) const {
    int steps = 0, others = 0;
    for (const FakeStep& step : script_->steps()) {
      ++steps;
      if (step.images.front().prompt == tenant) others = steps;
    }
    return others;
  }
};

TEST_F(TenantsTest, WhoFloodsIsRefusedAndOthersAreDrawnSoon) {
  Start(WithHeader());
  script_->step_gate()->Close();
  std::deque<OpenCall> flood;
  const grpc::Status refused = Flood("greedy", &flood);
  EXPECT_GT(flood.size(), 5u);
  for (const grpc::Status& status : {refused, CreateAs("greedy")}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_THAT(status.error_message(), HasSubstr("too much of this caller is waiting"));
    const auto retry = DetailOf<google::rpc::RetryInfo>(status);
    ASSERT_TRUE(retry.has_value());
    EXPECT_GT(retry->retry_delay().seconds(), 0);
  }
  OpenCall modest(stub_.get(), Request("modest"), absl::InfiniteDuration(), "modest");
  EXPECT_TRUE(modest.Next().has_queued());
  script_->step_gate()->Open();
  EXPECT_TRUE(modest.Rest().status.ok());
  for (OpenCall& call : flood) EXPECT_TRUE(call.Rest().status.ok());
  EXPECT_LE(StepsBefore("modest"), 12);  // of 4 for a picture
}

TEST_F(TenantsTest, OnlyTheOwnRequestsCanBeCancelled) {
  Start(WithHeader());
  script_->step_gate()->Close();
  v1::GenerateRequest request = Request("a");
  request.set_request_id("same");
  OpenCall one(stub_.get(), request, absl::InfiniteDuration(), "one");
  OpenCall two(stub_.get(), request, absl::InfiniteDuration(), "two");  // the same id is another tenant's own
  EXPECT_TRUE(one.Next().has_queued());
  EXPECT_TRUE(two.Next().has_queued());
  EXPECT_EQ(CancelAs("three", "same").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(CancelAs("", "same").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(CancelAs("two", "same").ok());
  script_->step_gate()->Open();
  EXPECT_EQ(two.Rest().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(one.Rest().status.ok());
}

TEST_F(TenantsTest, WhatIsNoNameIsRefused) {
  Start(WithHeader());
  for (const std::string& name : {std::string("night shift"), std::string("a/b"), std::string(65, 'a')}) {
    OpenCall call(stub_.get(), Request("a"), absl::InfiniteDuration(), name);
    for (const grpc::Status& status : {call.Rest().status, CreateAs(name), CancelAs(name, "a")}) {
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << name;
      EXPECT_THAT(status.error_message(), HasSubstr(kTenant)) << name;
      const auto bad = DetailOf<google::rpc::BadRequest>(status);
      ASSERT_TRUE(bad.has_value() && bad->field_violations_size() == 1) << name;
      EXPECT_EQ(bad->field_violations(0).field(), kTenant);
    }
  }
  grpc::ClientContext context;
  context.AddMetadata(kTenant, "one");
  context.AddMetadata(kTenant, "two");
  v1::CancelRequest request;
  request.set_request_id("a");
  v1::CancelResponse response;
  EXPECT_EQ(stub_->Cancel(&context, request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(CreateAs(std::string(64, 'a')).ok());
}

// A label is not authenticated: unless the configuration trusts it, nobody can make itself out as many.
TEST_F(TenantsTest, UnlessItIsConfiguredAllAreOne) {
  Options options = WithHeader();
  options.rpc.tenant_header = false;
  Start(options);
  script_->step_gate()->Close();
  v1::GenerateRequest request = Request("a");
  request.set_request_id("same");
  OpenCall one(stub_.get(), request, absl::InfiniteDuration(), "one");
  EXPECT_TRUE(one.Next().has_queued());
  request.set_prompt("b");
  OpenCall two(stub_.get(), request, absl::InfiniteDuration(), "not a name");
  EXPECT_EQ(two.Rest().status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_TRUE(CancelAs("three", "same").ok());
  script_->step_gate()->Open();
  EXPECT_EQ(one.Rest().status.error_code(), grpc::StatusCode::CANCELLED);
}

// As the log says, by which an operator finds who it is.
TEST_F(TenantsTest, TheLogSaysWhoseARequestWas) {
  Options options = WithHeader();
  options.log.format = LogFormat::kJson;
  Start(options);
  EXPECT_TRUE(CreateAs("studio").ok());
  EXPECT_THAT(AwaitLog(1).back(), HasSubstr("\"tenant\":\"studio\""));
}

}  // namespace
}  // namespace fresco
