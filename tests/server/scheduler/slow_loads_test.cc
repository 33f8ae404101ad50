// Models whose load takes long.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(SlowLoadsTest, ALoadThatTakesLongIsToldOfAndGoesOn) {
  const auto told = std::make_shared<Gate>();
  std::vector<std::string> heard;  // until the last is told
  SchedulerOptions options;
  options.watchdog.load = absl::Minutes(1);
  options.on_slow_load = [&](const SlowLoad& load) {
    heard.push_back(absl::StrCat(load.model, " on ", load.device, " ", absl::FormatDuration(load.since)));
    told->Pass();
  };
  SchedulerHarness harness(options);
  harness.AddModel("other", "cpu");
  Gate loading, loaded;
  loading.Close();
  const auto script = std::make_shared<FakeScript>();
  harness.scheduler->AddModel(
      "fake", "cpu",
      [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
        loading.Pass();
        return std::make_unique<FakeEngine>(FakeModelInfo(), script, nullptr);
      },
      [&](const auto& engine) {
        EXPECT_TRUE(engine.ok());
        loaded.Pass();
      });
  loading.AwaitBlocked();
  EXPECT_THAT(harness.scheduler->Snapshot().devices[0].slow_loads, IsEmpty());
  for (int minute = 1; minute <= 2; ++minute) {
    for (int half = 0; half < 2; ++half) {  // as the timer looks for devices that hang, too
      harness.clock.AwaitWaiter(harness.clock.Now() + WatchdogOptions().floor);
      harness.clock.Advance(WatchdogOptions().floor);
    }
    told->AwaitPassed(minute);
  }
  EXPECT_THAT(heard, ElementsAre("fake on cpu 1m", "fake on cpu 2m"));
  ASSERT_THAT(harness.scheduler->Snapshot().devices[0].slow_loads, SizeIs(1));
  EXPECT_EQ(harness.scheduler->Snapshot().devices[0].slow_loads[0].model, "fake");
  // Others are served meanwhile.
  GenerationRequest request = harness.Request("a");
  request.model = "other";
  EXPECT_TRUE(harness.Submit(request)->Result().ok());
  loading.Open();
  loaded.AwaitPassed(1);
  EXPECT_THAT(harness.scheduler->Snapshot().devices[0].slow_loads, IsEmpty());
  EXPECT_TRUE(harness.Submit(harness.Request("b"))->Result().ok());
}

}  // namespace
}  // namespace fresco
