// Models that an operator, a request or the lack of memory brings and takes away.
#include <google/rpc/error_details.pb.h>

#include <atomic>
#include <future>
#include <stdexcept>
#include <thread>
#include <utility>

#include "gmock/gmock.h"
#include "tests/server/rpc/service_fixture.h"
#include "tests/support/forwarding_engine.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kWeightBytes = 1000;  // of each fake engine

class ModelsTest : public ServiceTest {
 protected:
  static ManagedModel Model(const std::string& name, LoadPolicy load = LoadPolicy::kStartup,
                            std::vector<std::string> devices = {"cpu"}) {
    ManagedModel model;
    model.name = name;
    model.devices = std::move(devices);
    model.load = load;
    model.stored_bytes = kWeightBytes;
    return model;
  }

  static ManagedModel Pinned(ManagedModel model) {
    model.pinned = true;
    return model;
  }

  static Options With(std::vector<ManagedModel> models) {
    Options options;
    options.managed = std::move(models);
    return options;
  }

  // Room for so many models on the CPU.
  static Options Room(int models, Options options) {
    options.budgets["cpu"] = models * kWeightBytes;
    return options;
  }

  // `held` is loaded once the gate lets it pass, the others at once. A loader may pass it when the test's body has
  // ended.
  auto LoadsBehind(const std::shared_ptr<Gate>& gate, const std::string& held) {
    return [this, gate, held](const std::string& model,
                              const std::string& device) -> absl::StatusOr<std::unique_ptr<Engine>> {
      if (model == held) gate->Pass();
      return std::make_unique<FakeEngine>(FakeModelInfo(model, device), script_, nullptr);
    };
  }

  grpc::Status Load(const std::string& model, const std::vector<std::string>& devices = {}) {
    grpc::ClientContext context;
    v1::LoadModelRequest request;
    request.set_model(model);
    for (const std::string& device : devices) request.add_devices(device);
    return operations_->LoadModel(&context, request, &loaded_);
  }

  grpc::Status Unload(const std::string& model, const std::vector<std::string>& devices = {}) {
    grpc::ClientContext context;
    v1::UnloadModelRequest request;
    request.set_model(model);
    for (const std::string& device : devices) request.add_devices(device);
    return operations_->UnloadModel(&context, request, &unloaded_);
  }

  // "a READY, b UNLOADED".
  std::string States() {
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    EXPECT_TRUE(stub_->ListModels(&context, {}, &response).ok());
    std::string states;
    for (const v1::Model& model : response.models())
      states += (states.empty() ? "" : ", ") + model.name() + " " + v1::Model::State_Name(model.state());
    return states;
  }

  static v1::GenerateRequest For(const std::string& model, const std::string& prompt = "a") {
    v1::GenerateRequest request = Request(prompt);
    request.set_model(model);
    return request;
  }

  std::string Draw(const std::string& model) {
    const grpc::Status status = Generate(For(model)).status;
    return status.ok() ? "OK" : status.error_message();
  }

  v1::LoadModelResponse loaded_;
  v1::UnloadModelResponse unloaded_;
};

TEST_F(ModelsTest, AnOperatorLoadsAndUnloads) {
  Start(With({Model("a"), Model("b", LoadPolicy::kManual)}));
  EXPECT_EQ(States(), "a READY, b UNLOADED");
  EXPECT_EQ(Health("b"), "NOT_SERVING");
  EXPECT_EQ(Health(""), "SERVING");
  const Drawn refused = Generate(For("b"));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("'b' is not loaded"));
  ASSERT_TRUE(Load("b").ok());
  EXPECT_EQ(loaded_.model().state(), v1::Model::READY);
  EXPECT_THAT(loaded_.model().devices(), ElementsAre("cpu"));
  EXPECT_THAT(loaded_.evicted(), IsEmpty());
  EXPECT_EQ(Draw("b"), "OK");
  EXPECT_EQ(Health("b"), "SERVING");
  ASSERT_TRUE(Unload("a").ok());
  EXPECT_EQ(unloaded_.model().state(), v1::Model::UNLOADED);
  EXPECT_EQ(States(), "a UNLOADED, b READY");
  EXPECT_EQ(Health("a"), "NOT_SERVING");
  EXPECT_EQ(Health(""), "SERVING");
  EXPECT_THAT(Draw("a"), HasSubstr("'a' is not loaded"));  // the operator has said so
  EXPECT_EQ(Draw("b"), "OK");
  ASSERT_TRUE(Load("a").ok());
  EXPECT_EQ(Draw("a"), "OK");
}

TEST_F(ModelsTest, WhatCannotBeLoadedOrUnloadedIsSaid) {
  Start(With({Model("a"), Model("b", LoadPolicy::kManual)}));
  grpc::Status status = Load("c");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), AllOf(HasSubstr("'c'"), HasSubstr("a, b")));
  EXPECT_EQ(Unload("c").error_code(), grpc::StatusCode::NOT_FOUND);
  status = Load("b", {"cuda:7"});
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), AllOf(HasSubstr("cuda:7"), HasSubstr("cpu")));
  EXPECT_EQ(Load("a").error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(Load("a", {"cpu"}).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(Unload("b").error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ModelsTest, AModelThatIsOnItsWayIsNotLoadedTwiceAndOthersServe) {
  const auto loading = std::make_shared<Gate>();
  loading->Close();
  Options options = With({Model("a"), Model("slow", LoadPolicy::kManual)});
  options.load = LoadsBehind(loading, "slow");
  Start(options);
  AwaitLoaded();
  auto first = std::async(std::launch::async, [&] {
    grpc::ClientContext context;
    v1::LoadModelRequest request;
    request.set_model("slow");
    v1::LoadModelResponse response;
    return operations_->LoadModel(&context, request, &response);
  });
  loading->AwaitBlocked();
  EXPECT_EQ(States(), "a READY, slow LOADING");
  EXPECT_EQ(Health(""), "SERVING");
  EXPECT_EQ(Load("slow").error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(Unload("slow").error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(Draw("a"), "OK");
  loading->Open();
  EXPECT_TRUE(first.get().ok());
  EXPECT_EQ(Draw("slow"), "OK");
}

TEST_F(ModelsTest, OfManyWhoLoadAModelAtOnceOneDoes) {
  std::atomic<int> loads = 0;
  Options options = With({Model("a"), Model("b", LoadPolicy::kManual)});
  options.load = [&](const std::string& model, const std::string& device) -> absl::StatusOr<std::unique_ptr<Engine>> {
    if (model == "b") ++loads;
    return std::make_unique<FakeEngine>(FakeModelInfo(model, device), script_, nullptr);
  };
  Start(options);
  AwaitLoaded();
  std::vector<std::future<grpc::Status>> calls;
  for (int i = 0; i < 8; ++i) {
    calls.push_back(std::async(std::launch::async, [&] {
      grpc::ClientContext context;
      v1::LoadModelRequest request;
      request.set_model("b");
      v1::LoadModelResponse response;
      return operations_->LoadModel(&context, request, &response);
    }));
  }
  int loaded = 0;
  for (auto& call : calls) {
    const grpc::Status status = call.get();
    loaded += status.ok() ? 1 : 0;
    EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::ABORTED ||
                status.error_code() == grpc::StatusCode::ALREADY_EXISTS)
        << status.error_message();
  }
  EXPECT_EQ(loaded, 1);
  EXPECT_EQ(loads, 1);
  EXPECT_EQ(Draw("b"), "OK");
}

TEST_F(ModelsTest, WhoHangsUpWhileAModelLoadsDoesNotUndoIt) {
  const auto loading = std::make_shared<Gate>();
  loading->Close();
  Options options = With({Model("a"), Model("slow", LoadPolicy::kManual)});
  options.load = LoadsBehind(loading, "slow");
  Start(options);
  AwaitLoaded();
  grpc::ClientContext context;
  auto call = std::async(std::launch::async, [&] {
    v1::LoadModelRequest request;
    request.set_model("slow");
    v1::LoadModelResponse response;
    return operations_->LoadModel(&context, request, &response);
  });
  loading->AwaitBlocked();
  context.TryCancel();
  EXPECT_EQ(call.get().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(States(), "a READY, slow LOADING");
  EXPECT_EQ(Load("slow").error_code(), grpc::StatusCode::ABORTED);
  loading->Open();
  while (States() != "a READY, slow READY") absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(Draw("slow"), "OK");
}

TEST_F(ModelsTest, TheServerEndsThoughAModelLoads) {
  const auto loading = std::make_shared<Gate>();
  loading->Close();
  Options options = With({Model("a"), Model("slow", LoadPolicy::kManual)});
  options.load = LoadsBehind(loading, "slow");
  Start(options);
  AwaitLoaded();
  auto call = std::async(std::launch::async, [&] { return Load("slow"); });
  loading->AwaitBlocked();
  server_->Shutdown(absl::ZeroDuration());
  EXPECT_FALSE(call.get().ok());
  loading->Open();
}

// With the model go those that wait for their turn; what has begun is drawn.
TEST_F(ModelsTest, AModelThatIsUnloadedFinishesWhatItHasBegunAndTellsWhoWaits) {
  Options options = With({Model("a"), Model("b")});
  options.scheduler.max_batch = options.scheduler.max_resident = 1;
  Start(options);
  AwaitLoaded();
  script_->step_gate()->Close();
  OpenCall running(stub_.get(), For("a", "running"));
  script_->step_gate()->AwaitBlocked();
  OpenCall waiting(stub_.get(), For("a", "waiting"));
  EXPECT_TRUE(waiting.Next().has_queued());
  OpenCall other(stub_.get(), For("b", "other"));
  EXPECT_TRUE(other.Next().has_queued());
  auto unloaded = std::async(std::launch::async, [&] { return Unload("a"); });
  const Drawn told = waiting.Rest();  // at once
  EXPECT_EQ(told.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(told.status.error_message(), HasSubstr("'a' was unloaded"));
  EXPECT_EQ(Unload("a").error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(Load("a").error_code(), grpc::StatusCode::ABORTED);
  script_->step_gate()->Open();
  EXPECT_TRUE(running.Rest().status.ok());
  EXPECT_TRUE(other.Rest().status.ok());
  EXPECT_TRUE(unloaded.get().ok());
  EXPECT_EQ(States(), "a UNLOADED, b READY");
}

TEST_F(ModelsTest, AFailedLoadSaysWhyAndMayBeTriedAgain) {
  const auto broken = std::make_shared<std::atomic<bool>>(true);
  Options options = With({Model("a"), Model("b", LoadPolicy::kOnDemand)});
  options.load = [this, broken](const std::string& model,
                                const std::string& device) -> absl::StatusOr<std::unique_ptr<Engine>> {
    if (model == "b" && *broken) return absl::InvalidArgumentError("tensor x is cut short");
    return std::make_unique<FakeEngine>(FakeModelInfo(model, device), script_, nullptr);
  };
  Start(options);
  AwaitLoaded();
  // The request is right, whatever the loader's code.
  const Drawn first = Generate(For("b"));
  EXPECT_EQ(first.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(first.status.error_message(), "model 'b' could not be loaded: tensor x is cut short");
  EXPECT_EQ(States(), "a READY, b FAILED");
  EXPECT_THAT(Draw("b"), HasSubstr("could not be loaded"));
  const grpc::Status status = Load("b");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  *broken = false;
  EXPECT_TRUE(Load("b").ok());
  EXPECT_EQ(Draw("b"), "OK");
}

TEST_F(ModelsTest, WhatWaitsForItsModelIsCancelledByTheIdThatItWasGiven) {
  const auto loading = std::make_shared<Gate>();
  loading->Close();
  Options options = With({Model("a", LoadPolicy::kOnDemand)});
  options.load = LoadsBehind(loading, "a");
  options.rpc.tenant_header = true;
  Start(options);
  OpenCall first(stub_.get(), Request("first"), absl::InfiniteDuration(), "one");
  OpenCall second(stub_.get(), Request("second"), absl::InfiniteDuration(), "one");
  const std::string id = first.Next().queued().request_id();
  EXPECT_TRUE(second.Next().has_queued());
  EXPECT_EQ(CancelAs("two", id), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(CancelAs("one", id), grpc::StatusCode::OK);
  const grpc::Status status = first.Rest().status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_THAT(status.error_message(), HasSubstr("cancelled by its caller's Cancel"));
  AwaitCalls(1);
  EXPECT_EQ(CancelAs("one", id), grpc::StatusCode::NOT_FOUND);
  loading->Open();
  EXPECT_TRUE(second.Rest().status.ok());
  for (const FakeStep& step : script_->steps()) EXPECT_EQ(step.images.front().prompt, "second");
}

TEST_F(ModelsTest, TheFirstRequestLoadsAModelAndWaitsForIt) {
  const auto loading = std::make_shared<Gate>();
  loading->Close();
  Options options = With({Model("a", LoadPolicy::kOnDemand)});
  options.load = LoadsBehind(loading, "a");
  Start(options);
  EXPECT_EQ(States(), "a UNLOADED");
  EXPECT_EQ(Health("a"), "SERVING");
  EXPECT_EQ(Health(""), "SERVING");
  OpenCall first(stub_.get(), Request("first"));
  const v1::GenerateEvent queued = first.Next();
  EXPECT_EQ(queued.queued().position(), 0);
  EXPECT_FALSE(queued.queued().request_id().empty());
  v1::GenerateRequest named = Request("second");
  named.set_request_id("second");
  OpenCall second(stub_.get(), named);
  EXPECT_EQ(second.Next().queued().request_id(), "second");
  loading->AwaitBlocked();
  EXPECT_EQ(States(), "a LOADING");
  loading->Open();
  EXPECT_TRUE(first.Rest().status.ok());
  const Drawn drawn = second.Rest();
  EXPECT_TRUE(drawn.status.ok()) << drawn.status.error_message();
  EXPECT_EQ(drawn.images().size(), 1u);
}

TEST_F(ModelsTest, WhoWaitsForAModelIsToldOfBadFieldsToo) {
  Start(With({Model("a", LoadPolicy::kOnDemand)}));
  v1::GenerateRequest request = Request("x");
  request.set_width(17);
  const Drawn drawn = Generate(request);
  EXPECT_EQ(drawn.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(DetailOf<google::rpc::BadRequest>(drawn.status).has_value());
}

class ThrowingEngine final : public ForwardingEngine {
 public:
  using ForwardingEngine::ForwardingEngine;
  absl::Status Validate(const ImageSpec& spec) const override {
    if (spec.prompt == "throw") throw std::runtime_error("an engine's");
    return ForwardingEngine::Validate(spec);
  }
};

TEST_F(ModelsTest, AnEngineThatThrowsWhenAskedAboutARequestEndsThatRequestAlone) {
  Options options = With({Model("a", LoadPolicy::kOnDemand)});
  options.load = [this](const std::string& model, const std::string& device) {
    return std::make_unique<ThrowingEngine>(
        std::make_unique<FakeEngine>(FakeModelInfo(model, device), script_, nullptr));
  };
  Start(options);
  for (const char* model : {"is loaded for the first", "is there"}) {
    const Drawn thrown = OpenCall(stub_.get(), Request("throw"), absl::Seconds(20)).Rest();
    EXPECT_EQ(thrown.status.error_code(), grpc::StatusCode::INTERNAL) << "where the model " << model;
  }
  EXPECT_EQ(Draw("a"), "OK");
  EXPECT_THAT(AwaitCalls(3), ::testing::UnorderedElementsAre("a INTERNAL", "a INTERNAL", "a OK"));
}

TEST_F(ModelsTest, WhoLeavesWhileAModelLoadsIsNotDrawnFor) {
  const auto loading = std::make_shared<Gate>();
  loading->Close();
  Options options = With({Model("a", LoadPolicy::kOnDemand)});
  options.load = LoadsBehind(loading, "a");
  Start(options);
  OpenCall gone(stub_.get(), Request("gone"));
  gone.Next();
  loading->AwaitBlocked();
  gone.Hangup();
  EXPECT_EQ(gone.Rest().status.error_code(), grpc::StatusCode::CANCELLED);
  AwaitCalls(1);
  loading->Open();
  EXPECT_EQ(Draw("a"), "OK");
  for (const FakeStep& step : script_->steps()) EXPECT_EQ(step.images.front().prompt, "a");
}

TEST_F(ModelsTest, OnlySoManyRequestsWaitForModels) {
  const auto loading = std::make_shared<Gate>();
  loading->Close();
  Options options = With({Model("a", LoadPolicy::kOnDemand)});
  options.scheduler.max_queue = 1;
  options.load = LoadsBehind(loading, "a");
  Start(options);
  OpenCall waits(stub_.get(), Request("w"));
  waits.Next();
  const Drawn refused = Generate(Request("x"));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(refused.status).has_value());
  loading->Open();
  EXPECT_TRUE(waits.Rest().status.ok());
}

TEST_F(ModelsTest, DrainingTellsWhoWaitsForAModel) {
  const auto loading = std::make_shared<Gate>();
  loading->Close();
  Options options = With({Model("a", LoadPolicy::kOnDemand)});
  options.load = LoadsBehind(loading, "a");
  Start(options);
  OpenCall waits(stub_.get(), Request("w"));
  waits.Next();
  grpc::ClientContext context;
  v1::DrainResponse response;
  ASSERT_TRUE(operations_->Drain(&context, {}, &response).ok());
  EXPECT_EQ(waits.Rest().status.error_code(), grpc::StatusCode::UNAVAILABLE);
  // Nor is one loaded for who comes now, who may go to another server.
  const Drawn late = Generate(Request("late"));
  EXPECT_EQ(late.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(late.status.error_message(), HasSubstr("draining"));
  loading->Open();
  AwaitLoaded();
}

TEST_F(ModelsTest, TheLeastRecentlyUsedModelMakesRoom) {
  Start(Room(2, With({Model("a"), Model("b"), Model("c", LoadPolicy::kManual)})));
  EXPECT_EQ(Draw("b"), "OK");
  EXPECT_EQ(Draw("a"), "OK");
  ASSERT_TRUE(Load("c").ok());
  EXPECT_THAT(loaded_.evicted(), ElementsAre("b"));
  EXPECT_EQ(States(), "a READY, b UNLOADED, c READY");
  grpc::ClientContext context;
  v1::GetStatusResponse status;
  ASSERT_TRUE(operations_->GetStatus(&context, {}, &status).ok());
  EXPECT_EQ(status.devices(0).memory_budget_bytes(), 2 * kWeightBytes);
  EXPECT_EQ(status.devices(0).memory_weights_bytes(), 2 * kWeightBytes);
  // What was evicted comes back with the next request, and the next one goes.
  EXPECT_EQ(Health("b"), "SERVING");
  EXPECT_EQ(Draw("b"), "OK");
  EXPECT_EQ(States(), "a UNLOADED, b READY, c READY");
}

TEST_F(ModelsTest, ModelsInUseAndPinnedOnesStay) {
  Start(Room(2, With({Model("busy"), Pinned(Model("pinned")), Model("c", LoadPolicy::kOnDemand)})));
  script_->step_gate()->Close();
  OpenCall running(stub_.get(), For("busy"));
  script_->step_gate()->AwaitBlocked();
  const grpc::Status refused = Load("c");
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), AllOf(HasSubstr("'c' needs 1000 B on cpu"), HasSubstr("busy 1000 B (busy)"),
                                             HasSubstr("pinned 1000 B (pinned)"), HasSubstr("2.0 KiB of 2.0 KiB")));
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(refused).has_value());
  const Drawn also_refused = Generate(For("c"));
  EXPECT_EQ(also_refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(States(), "busy READY, pinned READY, c UNLOADED");
  script_->step_gate()->Open();
  EXPECT_TRUE(running.Rest().status.ok());
  EXPECT_EQ(Draw("c"), "OK");
  EXPECT_EQ(States(), "busy UNLOADED, pinned READY, c READY");
}

TEST_F(ModelsTest, WhatIsLargerThanTheBudgetIsRefusedForGood) {
  ManagedModel large = Model("large", LoadPolicy::kManual);
  large.stored_bytes = 3 * kWeightBytes;
  Start(Room(2, With({Model("a"), large})));
  const grpc::Status refused = Load("large");
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(refused.error_details(), "");          // no RetryInfo
  EXPECT_EQ(States(), "a READY, large UNLOADED");  // nobody went for it
}

TEST_F(ModelsTest, WhoIsRefusedForAPinnedModelIsNotToldToComeBack) {
  Start(Room(1, With({Pinned(Model("a")), Model("b", LoadPolicy::kOnDemand)})));
  const grpc::Status refused = Load("b");
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("a 1000 B (pinned)"));
  EXPECT_EQ(refused.error_details(), "");  // no RetryInfo
  EXPECT_EQ(Generate(For("b")).status.error_details(), "");
}

TEST_F(ModelsTest, AModelThatIsLargerThanItsFilesGoesAgain) {
  ManagedModel swells = Model("swells", LoadPolicy::kManual);
  swells.stored_bytes = kWeightBytes / 10;
  Options options = With({Pinned(Model("a")), swells});
  options.budgets["cpu"] = kWeightBytes + kWeightBytes / 2;
  Start(options);
  const grpc::Status refused = Load("swells");
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("needs 1000 B on cpu (measured)"));
  EXPECT_EQ(Draw("a"), "OK");
  while (States() != "a READY, swells UNLOADED") absl::SleepFor(absl::Milliseconds(5));
}

TEST_F(ModelsTest, ReplicasComeAndGoOneByOne) {
  Start(With({Model("a", LoadPolicy::kStartup, {"cuda:0", "cuda:1"})}));
  ASSERT_TRUE(Unload("a", {"cuda:0"}).ok());
  EXPECT_EQ(unloaded_.model().state(), v1::Model::READY);
  EXPECT_THAT(unloaded_.model().devices(), ElementsAre("cuda:1"));
  EXPECT_EQ(Draw("a"), "OK");
  EXPECT_EQ(Unload("a", {"cuda:0"}).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  ASSERT_TRUE(Load("a").ok());
  EXPECT_THAT(loaded_.model().devices(), ElementsAre("cuda:0", "cuda:1"));
  EXPECT_EQ(Draw("a"), "OK");
}

TEST_F(ModelsTest, NothingIsLoadedOntoALostDeviceOrEvictedThere) {
  Start(Room(
      2, With({Model("a"), Model("two", LoadPolicy::kStartup, {"cpu", "cuda:0"}), Model("b", LoadPolicy::kOnDemand)})));
  script_->Fail("deadly", FakeScript::Stage::kStep, absl::AbortedError("the device's context is lost"), 1);
  EXPECT_EQ(Generate(For("a", "deadly")).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(States(), "a FAILED, two READY, b FAILED");
  for (const char* model : {"a", "b"}) {
    const grpc::Status refused = Load(model);
    EXPECT_EQ(refused.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(refused.error_message(), HasSubstr("the device cpu is lost (the device's context is lost)"));
    EXPECT_EQ(Generate(For(model)).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  EXPECT_EQ(Load("two", {"cpu"}).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Unload("two", {"cpu"}).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Draw("two"), "OK");
  ASSERT_TRUE(Unload("two").ok());
  EXPECT_EQ(unloaded_.model().state(), v1::Model::UNLOADED);
  ASSERT_TRUE(Load("two").ok());
  EXPECT_THAT(loaded_.model().devices(), ElementsAre("cuda:0"));
  EXPECT_EQ(Draw("two"), "OK");
  EXPECT_EQ(Health("a"), "NOT_SERVING");
  EXPECT_EQ(Health("two"), "SERVING");
}

// Some have failed to load, the others' device is lost.
TEST_F(ModelsTest, WithoutAnyModelLeftTheServerServesNone) {
  Options options = With({Model("failed"), Model("both", LoadPolicy::kStartup, {"cpu", "cuda:0"}),
                          Model("lost", LoadPolicy::kStartup, {"cuda:0"})});
  options.load = [&](const std::string& model, const std::string& device) -> absl::StatusOr<std::unique_ptr<Engine>> {
    if (device == "cpu") return absl::InvalidArgumentError("tensor x is cut short");
    return std::make_unique<FakeEngine>(FakeModelInfo(model, device), script_, nullptr);
  };
  Start(options);
  AwaitLoaded();
  EXPECT_EQ(States(), "failed FAILED, both READY, lost READY");
  EXPECT_EQ(Health(""), "SERVING");
  script_->Fail("deadly", FakeScript::Stage::kStep, absl::AbortedError("the device's context is lost"), 1);
  EXPECT_EQ(Generate(For("lost", "deadly")).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(States(), "failed FAILED, both FAILED, lost FAILED");
  for (const char* service : {"", "failed", "both", "lost"}) EXPECT_EQ(Health(service), "NOT_SERVING") << service;
}

TEST_F(ModelsTest, LoadsThatWaitForADeviceThatIsLostAreAnswered) {
  const auto loading = std::make_shared<Gate>();
  loading->Close();
  Options options = With({Model("a"), Model("slow", LoadPolicy::kManual), Model("next", LoadPolicy::kManual)});
  options.load = LoadsBehind(loading, "slow");
  Start(options);
  AwaitLoaded();
  const auto load = [&](const std::string& model) {
    return std::async(std::launch::async, [&, model] {
      grpc::ClientContext context;
      v1::LoadModelRequest request;
      request.set_model(model);
      v1::LoadModelResponse response;
      return operations_->LoadModel(&context, request, &response);
    });
  };
  auto slow = load("slow");
  loading->AwaitBlocked();
  auto next = load("next");
  while (States() != "a READY, slow LOADING, next LOADING") absl::SleepFor(absl::Milliseconds(5));
  script_->Fail("deadly", FakeScript::Stage::kStep, absl::AbortedError("the device's context is lost"), 1);
  EXPECT_EQ(Generate(For("a", "deadly")).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  loading->Open();
  for (auto* answer : {&slow, &next}) {
    const grpc::Status status = answer->get();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(status.error_message(), HasSubstr("the device cpu is lost"));
  }
  EXPECT_EQ(States(), "a FAILED, slow FAILED, next FAILED");
}

TEST_F(ModelsTest, ManyCallersOfManyModelsAreServedWithinTheBudget) {
  std::vector<ManagedModel> models;
  for (const char* name : {"a", "b", "c", "d"}) models.push_back(Model(name, LoadPolicy::kOnDemand));
  Start(Room(2, With(models)));
  std::atomic<int> drawn = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (int i = 0; i < 20; ++i) {
        const v1::GenerateRequest request = For(models[(caller + i * (caller + 1)) % 4].name);
        grpc::Status status = Generate(request).status;
        // As a client does that is told when to come back.
        while (DetailOf<google::rpc::RetryInfo>(status).has_value()) {
          absl::SleepFor(absl::Milliseconds(1));
          status = Generate(request).status;
        }
        EXPECT_TRUE(status.ok()) << status.error_code() << " " << status.error_message();
        drawn += status.ok() ? 1 : 0;
        grpc::ClientContext context;
        v1::GetStatusResponse now;
        EXPECT_TRUE(operations_->GetStatus(&context, {}, &now).ok());
        EXPECT_LE(now.devices(0).memory_weights_bytes(), 2 * kWeightBytes);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(drawn, 80);
}

}  // namespace
}  // namespace fresco
