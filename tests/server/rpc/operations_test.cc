// What an operator sees: models, status, health, logs, the end of a server.
#include <google/rpc/error_details.pb.h>

#include <thread>

#include "gmock/gmock.h"
#include "tests/server/rpc/service_fixture.h"

namespace fresco {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

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
  EXPECT_EQ(Health("fresco:liveness"), "SERVING");  // else it would be killed for loading
  const Drawn refused = Generate(Request("a"));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(refused.status).has_value());
  EXPECT_THAT(AwaitCalls(1), ElementsAre("fake UNAVAILABLE"));  // the model's, though the request did not name it
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

TEST_F(ServiceTest, GetStatusNamesTheLayersThatSaturate) {
  Start();
  script_->Saturate({"transformer.transformer_blocks.3.ff.net.2", /*saturated=*/12, /*guarded=*/0, /*elements=*/4096});
  script_->Saturate({"vae.decoder.conv_in", /*saturated=*/0, /*guarded=*/3, /*elements=*/99});
  grpc::ClientContext context;
  v1::GetStatusResponse status;
  ASSERT_TRUE(operations_->GetStatus(&context, {}, &status).ok());
  EXPECT_THAT(status.devices(0).notes(),
              AllOf(Contains(HasSubstr("transformer.transformer_blocks.3.ff.net.2: of 4096 activations 12 clamped")),
                    Contains(HasSubstr("vae.decoder.conv_in: of 99 activations 3 kept by the overflow guard"))));
}

TEST_F(ServiceTest, ADeviceThatIsLostServesNoMoreAndSaysWhy) {
  Start();
  script_->Fail("deadly", FakeScript::Stage::kStep, absl::AbortedError("the device's context is lost"), 1);
  EXPECT_EQ(Health("fake"), "SERVING");
  AwaitHealth("", "SERVING");
  EXPECT_EQ(HealthTold(), "serving fake");
  const Drawn failed = Generate(Request("deadly"));
  EXPECT_EQ(failed.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(failed.status.error_message(), HasSubstr("the device cpu is lost (the device's context is lost)"));
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(failed.status).has_value());
  EXPECT_EQ(HealthTold(), "not serving");
  EXPECT_EQ(Health("fake"), "NOT_SERVING");
  EXPECT_EQ(Health(""), "NOT_SERVING");
  const Drawn refused = Generate(Request("a"));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(refused.status).has_value());
  grpc::ClientContext context;
  v1::GetStatusResponse status;
  ASSERT_TRUE(operations_->GetStatus(&context, {}, &status).ok());
  ASSERT_EQ(status.devices_size(), 1);
  EXPECT_EQ(status.devices(0).lost(), "the device's context is lost");
  EXPECT_THAT(status.devices(0).models(), ::testing::IsEmpty());
  EXPECT_EQ(status.models(0).state(), v1::Model::FAILED);
  EXPECT_THAT(status.models(0).error(), HasSubstr("its device cpu is lost"));
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
  EXPECT_EQ(Health("fresco:liveness"), "SERVING");  // else it would be killed for finishing its work
  EXPECT_EQ(HealthTold(), "not serving draining");
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

}  // namespace
}  // namespace fresco
