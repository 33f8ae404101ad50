// Operations.Profile over gRPC, with engines and a profiler that compute nothing.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "server/scheduler/step_profiler.h"
#include "tests/server/rpc/service_fixture.h"
#include "tests/support/fake_recorder.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// What a Profile call gave.
struct Profiled {
  grpc::Status status;
  std::vector<v1::ProfileResponse> parts;
};

class ProfileCallTest : public ServiceTest {
 protected:
  void StartProfiled() {
    Options options;
    // Lives with what it uses as long as the scheduler: the step that ends last may still be measured when the test is
    // over.
    options.scheduler.step_profiler = {profiling_, &profiling_->profiler};
    Start(options);
  }

  static v1::ProfileRequest Steps(int steps, bool trace = false) {
    v1::ProfileRequest request;
    request.set_steps(steps);
    request.set_trace(trace);
    return request;
  }

  static Profiled Read(grpc::ClientReader<v1::ProfileResponse>* reader) {
    Profiled profiled;
    for (v1::ProfileResponse part; reader->Read(&part);) profiled.parts.push_back(part);
    profiled.status = reader->Finish();
    return profiled;
  }

  Profiled Profile(const v1::ProfileRequest& request, absl::Duration timeout = absl::InfiniteDuration()) {
    grpc::ClientContext context;
    if (timeout != absl::InfiniteDuration()) context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    return Read(operations_->Profile(&context, request).get());
  }

  struct Opened {
    std::unique_ptr<grpc::ClientContext> context;
    std::unique_ptr<grpc::ClientReader<v1::ProfileResponse>> reader;
  };

  // A call that waits for steps, and has the profiler: another is turned away.
  Opened OpenProfile() {
    while (true) {
      Opened opened{std::make_unique<grpc::ClientContext>(), nullptr};
      opened.reader = operations_->Profile(opened.context.get(), Steps(1));
      if (Profile(Steps(1), absl::Seconds(1)).status.error_code() == grpc::StatusCode::ABORTED) return opened;
      // The other came first.
      EXPECT_EQ(Read(opened.reader.get()).status.error_code(), grpc::StatusCode::ABORTED);
    }
  }

  // While somebody has pictures drawn.
  Profiled ProfileDrawing(const v1::ProfileRequest& request) {
    std::atomic<bool> enough = false;
    std::thread drawing([&] {
      while (!enough) Generate(Request("a red fox"));
    });
    Profiled profiled = Profile(request);
    enough = true;
    drawing.join();
    return profiled;
  }

  struct Profiling {
    SystemClock clock;
    FakeProfiler fake;
    StepProfiler profiler{fake.source(), &clock};
  };
  const std::shared_ptr<Profiling> profiling_ = std::make_shared<Profiling>();
  FakeProfiler& fake_ = profiling_->fake;
};

TEST_F(ProfileCallTest, TheTableOfTheStepsThatOthersHaveMade) {
  StartProfiled();
  const Profiled profiled = ProfileDrawing(Steps(2));
  ASSERT_TRUE(profiled.status.ok()) << profiled.status.error_message();
  ASSERT_THAT(profiled.parts, SizeIs(1));
  const v1::StepProfile& profile = profiled.parts[0].profile();
  EXPECT_EQ(profile.model(), "fake");
  EXPECT_EQ(profile.device(), "cpu");
  EXPECT_EQ(profile.steps(), 2);
  EXPECT_EQ(profile.step().nanos(), 1000000);
  EXPECT_EQ(profile.outside_layers().nanos(), 100000);
  EXPECT_TRUE(profile.has_overhead());
  ASSERT_EQ(profile.layers_size(), 2);
  const v1::ProfiledLayer& layer = profile.layers(0);
  EXPECT_EQ(layer.name(), "transformer.ff.net.2");
  EXPECT_EQ(layer.kind(), "MLP");
  EXPECT_EQ(layer.dtype(), "bf16");
  EXPECT_EQ(layer.duration().nanos(), 400000);
  EXPECT_EQ(layer.flops(), 800000000);
  EXPECT_EQ(layer.bytes(), 4096);
  EXPECT_DOUBLE_EQ(layer.share_of_peak(), 0.5);  // of 4e12 a second
  EXPECT_FALSE(profile.layers(1).has_share_of_peak());
  EXPECT_EQ(profile.memory_bandwidth(), 1e9);
  EXPECT_DOUBLE_EQ(layer.share_of_bandwidth(), 4096 / 1e9 / 400e-6);
  EXPECT_EQ(layer.bound(), "compute");  // 200 µs, against 4 of its bytes
  EXPECT_DOUBLE_EQ(profile.layers(1).share_of_bandwidth(), 64 / 1e9 / 500e-6);
  EXPECT_EQ(profile.layers(1).bound(), "memory");
  EXPECT_THAT(fake_.calls(), Each(::testing::Not(HasSubstr("operations"))));
}

TEST_F(ProfileCallTest, ASlowMemoryBindsALayerOfMuchWork) {
  fake_.SetBandwidth(1e7);  // 410 µs for the layer's bytes, 200 for its products
  StartProfiled();
  const Profiled profiled = ProfileDrawing(Steps(1));
  ASSERT_TRUE(profiled.status.ok()) << profiled.status.error_message();
  const v1::ProfiledLayer& layer = profiled.parts.at(0).profile().layers(0);
  EXPECT_DOUBLE_EQ(layer.share_of_bandwidth(), 1.024);
  EXPECT_EQ(layer.bound(), "memory");
}

TEST_F(ProfileCallTest, WithoutABandwidthNothingIsSaidOfIt) {
  fake_.SetBandwidth(absl::ResourceExhaustedError("no room for a copy"));
  StartProfiled();
  const Profiled profiled = ProfileDrawing(Steps(1));
  ASSERT_TRUE(profiled.status.ok()) << profiled.status.error_message();
  const v1::StepProfile& profile = profiled.parts.at(0).profile();
  EXPECT_FALSE(profile.has_memory_bandwidth());
  for (const v1::ProfiledLayer& layer : profile.layers()) {
    EXPECT_FALSE(layer.has_share_of_bandwidth());
    EXPECT_EQ(layer.bound(), "");
  }
}

TEST_F(ProfileCallTest, TheTraceFollowsInChunks) {
  StartProfiled();
  const Profiled profiled = ProfileDrawing(Steps(1, /*trace=*/true));
  ASSERT_TRUE(profiled.status.ok()) << profiled.status.error_message();
  ASSERT_THAT(profiled.parts, SizeIs(2));
  const v1::TraceChunk& chunk = profiled.parts[1].trace();
  EXPECT_EQ(chunk.offset(), 0);
  EXPECT_EQ(chunk.total_bytes(), static_cast<int64_t>(chunk.data().size()));
  EXPECT_THAT(chunk.data(), HasSubstr("traceEvents"));
  EXPECT_THAT(fake_.calls(), Contains("cpu operations"));
}

TEST_F(ProfileCallTest, WhereNobodyDrawsItIsSaidBeforeTheDeadline) {
  StartProfiled();
  const Profiled profiled = Profile(Steps(1), absl::Seconds(1));
  EXPECT_EQ(profiled.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(profiled.status.error_message(), HasSubstr("no step of the model 'fake' was recorded"));
  EXPECT_THAT(fake_.calls(), IsEmpty());
  EXPECT_TRUE(ProfileDrawing(Steps(1)).status.ok());  // the next may
}

TEST_F(ProfileCallTest, AModelThatIsUnloadedEndsItsProfile) {
  StartProfiled();
  const Opened opened = OpenProfile();
  models().SetUnloaded("fake", "cpu");
  const Profiled profiled = Read(opened.reader.get());
  EXPECT_EQ(profiled.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION) << profiled.status.error_message();
}

TEST_F(ProfileCallTest, OneAtATimeAndWhoLeavesEndsIt) {
  StartProfiled();
  const Opened waiting = OpenProfile();
  waiting.context->TryCancel();
  EXPECT_EQ(Read(waiting.reader.get()).status.error_code(), grpc::StatusCode::CANCELLED);
  Profiled third;
  do {
    third = ProfileDrawing(Steps(1));  // until the server has heard that the first has left
  } while (third.status.error_code() == grpc::StatusCode::ABORTED);
  EXPECT_TRUE(third.status.ok()) << third.status.error_message();
}

TEST_F(ProfileCallTest, WhatCannotBeProfiledIsRefused) {
  StartProfiled();
  EXPECT_EQ(Profile(Steps(65)).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Profile(Steps(17, /*trace=*/true)).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Profile(Steps(-1)).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  v1::ProfileRequest request;
  request.set_device("cuda:7");
  const grpc::Status device = Profile(request).status;
  EXPECT_EQ(device.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(device.error_message(), AllOf(HasSubstr("cuda:7"), HasSubstr("cpu")));
  request.set_model("other");
  const grpc::Status model = Profile(request).status;
  EXPECT_EQ(model.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(model.error_message(), HasSubstr("fake"));
}

TEST_F(ProfileCallTest, AProfilerThatFailsIsHeardOf) {
  fake_.FailToBegin(absl::InternalError("profiling: no Kineto"));
  StartProfiled();
  const grpc::Status status = ProfileDrawing(Steps(1)).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("no Kineto"));
}

TEST_F(ProfileCallTest, AServerWithoutAProfilerSaysSo) {
  Start();
  EXPECT_EQ(Profile(Steps(1)).status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(ProfileCallTest, WhoProfilesIsInTheAuditLog) {
  StartProfiled();
  EXPECT_EQ(Profile(Steps(65)).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(AwaitLog(1), Contains(AllOf(HasSubstr("WARN  profile "), HasSubstr("steps=65"))));
}

}  // namespace
}  // namespace fresco
