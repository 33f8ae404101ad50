// The manager by itself, at the instants that calls over the network rarely meet: while a model is about to go, while
// the scheduler stops, while a device is being lost.
#include "server/rpc/model_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/mutex.h"
#include "server/rpc/model_registry.h"
#include "tests/support/forwarding_engine.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr int64_t kWeightBytes = 1000;  // of each fake engine
constexpr char kDevice[] = "cpu";

class SizedEngine final : public ForwardingEngine {
 public:
  SizedEngine(std::unique_ptr<Engine> engine, std::function<void()> on_stats)
      : ForwardingEngine(std::move(engine)), on_stats_(std::move(on_stats)) {}
  EngineStats stats() const override {
    on_stats_();
    return ForwardingEngine::stats();
  }

 private:
  const std::function<void()> on_stats_;
};

// Hears of each event where it happens, and writes down the end of each call.
class ModelManagerTest : public ::testing::Test, private ModelManagerObserver {
 protected:
  struct Model {
    std::string name;
    LoadPolicy load = LoadPolicy::kOnDemand;
    int64_t stored_bytes = kWeightBytes;
  };

  void Start(const std::vector<Model>& models, int64_t budget) {
    ModelManagerOptions options;
    options.budgets[kDevice] = budget;
    options.max_waiting = 2;
    std::vector<ModelRegistry::Replica> replicas;
    for (const Model& model : models) {
      options.models.push_back({model.name, {kDevice}, model.load, false, model.stored_bytes});
      replicas.push_back({model.name, kDevice, false});
    }
    registry_ = std::make_unique<ModelRegistry>(replicas);
    manager_ = std::make_unique<ModelManager>(
        options, ModelManagerDependencies{
                     harness_.scheduler.get(), registry_.get(), &harness_.clock, this,
                     [this](const std::string& model, const std::string& device) { return Load(model, device); }});
  }

  ~ModelManagerTest() override {
    load_gate_.Open();
    harness_.OpenGates();
    script_->step_gate()->Open();
    harness_.scheduler.reset();
  }

  absl::StatusOr<std::unique_ptr<Engine>> Load(const std::string& model, const std::string& device) {
    load_gate_.Pass();
    return std::make_unique<SizedEngine>(
        std::make_unique<FakeEngine>(FakeModelInfo(model, device), script_, &harness_.clock), [this] {
          if (on_stats_ != nullptr) on_stats_();
        });
  }

  std::future<absl::Status> LoadModel(const std::string& model) {
    const auto promise = std::make_shared<std::promise<absl::Status>>();
    manager_->Load(model, {}, [promise](const absl::StatusOr<ModelManager::Loaded>& loaded) {
      promise->set_value(absl::Status(loaded.status().code(), loaded.status().message()));
    });
    return promise->get_future();
  }

  std::future<absl::Status> UnloadModel(const std::string& model) {
    const auto promise = std::make_shared<std::promise<absl::Status>>();
    manager_->Unload(model, {}, [promise](const absl::Status& status) {
      promise->set_value(absl::Status(status.code(), status.message()));
    });
    return promise->get_future();
  }

  // A request that waits for its model; a code once it is told.
  std::future<absl::StatusCode> Await(const std::string& model) {
    const auto promise = std::make_shared<std::promise<absl::StatusCode>>();
    const auto waits = manager_->Await(
        model, [] { return true; }, [promise](const absl::Status& status) { promise->set_value(status.code()); });
    EXPECT_TRUE(waits.ok() && *waits) << waits.status();
    return promise->get_future();
  }

  // Has a request of its own.
  std::unique_ptr<EventReader> Submit(const std::string& model, const std::string& id) {
    GenerationRequest request = SchedulerHarness::Request(id);
    request.model = model;
    return harness_.Submit(std::move(request));
  }

  std::vector<std::string> Ready() const {
    std::vector<std::string> ready;
    for (const ModelStatus& model : registry_->List()) {
      if (model.state == ModelState::kReady) ready.push_back(model.name);
    }
    return ready;
  }

  SchedulerHarness harness_;
  const std::shared_ptr<FakeScript> script_ = std::make_shared<FakeScript>();
  Gate load_gate_;
  std::unique_ptr<ModelRegistry> registry_;
  std::unique_ptr<ModelManager> manager_;
  // Called when this model has been loaded, before anybody else hears of it but the registry.
  std::map<std::string, std::function<void()>> on_loaded_;
  std::function<void()> on_stats_;

  // "a model_memory": in the order in which they were counted.
  std::vector<std::string> refusals() const {
    MutexLock lock(&mutex_);
    return refusals_;
  }

 private:
  void OnRequestRefused(const std::string& model, std::string_view reason) override {
    MutexLock lock(&mutex_);
    refusals_.push_back(model + " " + std::string(reason));
  }

  mutable Mutex mutex_;
  std::vector<std::string> refusals_ FRESCO_GUARDED_BY(mutex_);

  void OnLoaded(const std::string& model, const std::string& /*device*/, const EngineView& /*engine*/,
                absl::Duration /*took*/) override {
    if (const auto found = on_loaded_.find(model); found != on_loaded_.end()) found->second();
  }
};

// As `a` has been loaded, `b`, which waits for its room, sets about evicting it.
TEST_F(ModelManagerTest, WhoComesWhileAModelIsAboutToGoAndStaysAfterAllIsServed) {
  Start({{"a"}, {"b", LoadPolicy::kManual}}, kWeightBytes);
  std::future<absl::StatusCode> late;
  std::unique_ptr<EventReader> drawn;
  script_->step_gate()->Close();
  on_loaded_["a"] = [&] {
    late = Await("a");             // finds it on its way out
    drawn = Submit("a", "drawn");  // and this keeps it
  };
  load_gate_.Close();
  auto first = Await("a");
  load_gate_.AwaitBlocked();
  auto other = LoadModel("b");
  load_gate_.Open();
  EXPECT_EQ(first.get(), absl::StatusCode::kOk);
  EXPECT_EQ(other.get().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(late.get(), absl::StatusCode::kOk);
  script_->step_gate()->Open();
  EXPECT_TRUE(drawn->Result().ok());
  EXPECT_THAT(Ready(), ElementsAre("a"));
}

TEST_F(ModelManagerTest, ALoadThatNeedsRoomIsAnsweredWhenTheSchedulerHasStopped) {
  Start({{"a"}, {"b"}}, kWeightBytes);
  ASSERT_TRUE(LoadModel("a").get().ok());
  harness_.scheduler->Stop();
  EXPECT_EQ(LoadModel("b").get().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(UnloadModel("a").get().code(), absl::StatusCode::kCancelled);
}

// `a` has to finish what it draws before it goes, and `b` waits for its room.
TEST_F(ModelManagerTest, ALoadThatWaitsForRoomIsAnsweredWhenTheSchedulerStops) {
  Start({{"a"}, {"b"}}, kWeightBytes);
  ASSERT_TRUE(LoadModel("a").get().ok());
  script_->step_gate()->Close();
  auto drawn = Submit("a", "drawn");
  script_->step_gate()->AwaitBlocked();
  auto unloaded = UnloadModel("a");
  auto loaded = LoadModel("b");
  harness_.scheduler->Stop();
  script_->step_gate()->Open();
  harness_.scheduler.reset();
  EXPECT_EQ(unloaded.get().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(loaded.get().code(), absl::StatusCode::kCancelled);
}

TEST_F(ModelManagerTest, WhereWhatWasToMakeRoomStaysAnotherGoesForAModelThatIsLargerThanItsFiles) {
  Start({{"a"}, {"b"}, {"swells", LoadPolicy::kOnDemand, /*stored_bytes=*/1}}, 2 * kWeightBytes + kWeightBytes / 2);
  ASSERT_TRUE(LoadModel("a").get().ok());
  harness_.clock.Advance(absl::Seconds(1));
  ASSERT_TRUE(LoadModel("b").get().ok());
  harness_.clock.Advance(absl::Seconds(1));
  script_->step_gate()->Close();
  std::unique_ptr<EventReader> drawn;
  on_loaded_["swells"] = [&] { drawn = Submit("a", "drawn"); };  // the least recently used
  ASSERT_TRUE(LoadModel("swells").get().ok());
  script_->step_gate()->Open();
  EXPECT_TRUE(drawn->Result().ok());
  harness_.scheduler.reset();  // what was about to go has gone
  EXPECT_THAT(Ready(), UnorderedElementsAre("a", "swells"));
}

TEST_F(ModelManagerTest, WhoHasLeftTakesNobodysPlace) {
  Start({{"a"}}, kWeightBytes);
  load_gate_.Close();
  const auto wait = [&](bool wanted) {
    return manager_->Await(
        "a", [wanted] { return wanted; }, [](const absl::Status&) {});
  };
  ASSERT_TRUE(wait(false).ok());
  ASSERT_TRUE(wait(true).ok());
  EXPECT_TRUE(wait(true).ok());
  EXPECT_EQ(wait(true).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refusals(), ElementsAre("a model_queue_full"));
}

TEST_F(ModelManagerTest, WhatWaitsForAModelThatHasNoRoomIsRefused) {
  Start({{"a", LoadPolicy::kOnDemand, 2 * kWeightBytes}}, kWeightBytes);
  EXPECT_EQ(Await("a").get(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refusals(), ElementsAre("a model_memory"));
}

// The device may be slow to answer, and others are served meanwhile.
TEST_F(ModelManagerTest, AnEngineIsNotAskedWithTheManagersLock) {
  Start({{"a"}, {"b"}}, 2 * kWeightBytes);
  on_stats_ = [&] { EXPECT_EQ(manager_->ExpectedLoad("a"), absl::ZeroDuration()); };
  EXPECT_TRUE(LoadModel("b").get().ok());
}

}  // namespace
}  // namespace fresco
