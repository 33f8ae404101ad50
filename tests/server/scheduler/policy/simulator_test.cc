// An hour's load on a virtual clock: the promises of docs/SCHEDULING.md, at a size that takes seconds.
// The full comparison is scheduler_bench.
#include "bench/scheduler/simulator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>

#include "bench/scheduler/device_model.h"

namespace fresco {
namespace {

SimulationResult RunLoad(const std::string& policy, double load, Arrivals arrivals, int devices = 8) {
  SimulationOptions options;
  options.core.policy = policy;
  options.load = load;
  options.arrivals = arrivals;
  options.devices = devices;
  options.requests = 20000;  // about an hour for eight devices
  return Simulate(options, DeviceModel());
}

TEST(SimulatorTest, TheDeviceDoesWhatItsSourcesSay) {
  const DeviceModel device;
  // 31.1 TFLOP of Large at 1024x1024 (docs/facts/sd35.md) and a fifth for the empty half wave, at 792 TFLOP/s.
  EXPECT_NEAR(device.StepSeconds(TokensOf(1024, 1024), 1), 31.15e12 * 1.2007 / 791.6e12, 1e-4);
  // What a second image saves: next to nothing at 1024x1024, a quarter of both at 512x512, with guidance.
  const auto saved = [&](int tokens) {
    return 1 - device.StepSeconds(tokens, 4) / (2 * device.StepSeconds(tokens, 2));
  };
  EXPECT_LT(saved(TokensOf(1024, 1024)), 0.05);
  EXPECT_GT(saved(TokensOf(512, 512)), 0.12);
}

TEST(SimulatorTest, TheSameSeedGivesTheSameRun) {
  const SimulationResult a = RunLoad("deadline-fair", 0.9, Arrivals::kBursty, 2);
  const SimulationResult b = RunLoad("deadline-fair", 0.9, Arrivals::kBursty, 2);
  EXPECT_EQ(a.all.latencies, b.all.latencies);
  EXPECT_EQ(a.steps, b.steps);
}

SimulationResult RunWithFault(double slowdown, double end) {
  SimulationOptions options;
  options.load = 0.6;
  options.requests = 10000;
  options.faults = {{/*device=*/3, /*begin=*/300, end, slowdown}};
  options.watchdog.first = absl::Minutes(1);
  return Simulate(options, DeviceModel());
}

int64_t Ended(const SimulationResult& run) {
  return run.all.refused + run.all.dropped + static_cast<int64_t>(run.all.latencies.size());
}

TEST(SimulatedFaultTest, ADeviceThatHangsCostsItsImagesTheWatchdogsTimeAndNoneIsLost) {
  const SimulationResult run = RunWithFault(/*slowdown=*/0, 301);
  EXPECT_EQ(run.devices_lost, 1);
  EXPECT_EQ(Ended(run), run.all.requests);
  EXPECT_GT(run.all.attainment(), 0.97);
  // At most the images of one step, and who had to give way to what waited longest then, were late for it.
  EXPECT_LT(run.classes[0].longest_start, 8);
}

TEST(SimulatedFaultTest, ADeviceThatIsSlowForAWhileIsNotLostAndDoesLess) {
  const SimulationResult run = RunWithFault(/*slowdown=*/4, 600);
  EXPECT_EQ(run.devices_lost, 0);
  EXPECT_EQ(Ended(run), run.all.requests);
  EXPECT_GT(run.all.attainment(), 0.9);
}

class SimulatedLoadTest : public ::testing::TestWithParam<std::tuple<Arrivals, double>> {};

TEST_P(SimulatedLoadTest, EveryRequestEndsOnceAndNoneWaitsBeyondItsAgeBound) {
  const auto [arrivals, load] = GetParam();
  const SimulationResult run = RunLoad("deadline-fair", load, arrivals);
  const CoreOptions options;
  for (int i = 0; i < kPriorityClasses; ++i) {
    const ClassResult& of_class = run.classes[i];
    EXPECT_EQ(of_class.requests, of_class.refused + of_class.dropped + static_cast<int64_t>(of_class.latencies.size()));
    const double max_wait = absl::ToDoubleSeconds(options.classes[i].max_wait);
    EXPECT_LE(of_class.longest_start, max_wait);
    // Paused once it has started it counts as if it might wait four times as long.
    EXPECT_LE(of_class.longest_wait, 4 * max_wait);
  }
}

// What scheduler_bench checks, with a fifth of its requests.
TEST_P(SimulatedLoadTest, ComparedWithTheOthersMoreIsInTimeAsMuchIsDrawnAndSharesAreFair) {
  const auto [arrivals, load] = GetParam();
  const SimulationResult ours = RunLoad("deadline-fair", load, arrivals);
  const SimulationResult fifo = RunLoad("fifo", load, arrivals);
  const SimulationResult dynamic = RunLoad("dynamic", load, arrivals);
  const bool pressed = load >= 0.9;
  EXPECT_GE(ours.all.attainment(), (pressed ? 1.3 : 1) * fifo.all.attainment());
  EXPECT_GE(ours.all.attainment(), dynamic.all.attainment());
  EXPECT_LE(ours.classes[0].Percentile(0.99), (pressed ? 0.5 : 0.7) * fifo.classes[0].Percentile(0.99));
  EXPECT_GE(ours.images_per_second, 0.97 * std::max(fifo.images_per_second, dynamic.images_per_second));
  EXPECT_GE(ours.jain, 0.95);
}

// Sizes that are many and nearly equal, on one device. `mixing`: what it costs, as a share of the step.
SimulationResult RunRatios(const ModelWork& model, Sizes sizes, double load, Arrivals arrivals, bool mixes,
                           double mixing = 0) {
  SimulationOptions options;
  options.load = load;
  options.arrivals = arrivals;
  options.devices = 1;
  options.requests = 20000;
  options.sizes = sizes;
  options.mixes = mixes;
  DeviceModel device(model);
  device.set_mixing(mixing);
  return Simulate(options, device);
}

TEST_P(SimulatedLoadTest, WhereSmallImagesOfManySizesShareStepsMoreIsInTimeAndMoreIsDrawn) {
  const auto [arrivals, load] = GetParam();
  const SimulationResult apart = RunRatios(kMedium, Sizes::kSmallRatios, load, arrivals, /*mixes=*/false);
  const SimulationResult mixed = RunRatios(kMedium, Sizes::kSmallRatios, load, arrivals, /*mixes=*/true);
  EXPECT_EQ(apart.mixed_steps, 0);
  EXPECT_GT(mixed.mixed_steps, 0.1 * static_cast<double>(mixed.steps));
  EXPECT_GE(mixed.all.attainment(), apart.all.attainment() + 0.01);
  EXPECT_GE(mixed.images_per_second, 1.01 * apart.images_per_second);
}

// At a megapixel sharing steps saves a twentieth, which is worth no more than it costs.
TEST_P(SimulatedLoadTest, WhereMixingSavesLittleNothingIsLostByIt) {
  const auto [arrivals, load] = GetParam();
  const SimulationResult apart = RunRatios(kLarge, Sizes::kLargeRatios, load, arrivals, /*mixes=*/false);
  const SimulationResult mixed = RunRatios(kLarge, Sizes::kLargeRatios, load, arrivals, /*mixes=*/true);
  EXPECT_GE(mixed.all.attainment(), apart.all.attainment() - 0.01);
  EXPECT_GE(mixed.images_per_second, 0.99 * apart.images_per_second);
}

// A mixed step that takes half as long again, more than it saves, is found out, and tried again but now and then.
TEST_P(SimulatedLoadTest, WhereMixingCostsMoreThanItSavesItIsLeftAlone) {
  const auto [arrivals, load] = GetParam();
  const SimulationResult apart = RunRatios(kMedium, Sizes::kSmallRatios, load, arrivals, /*mixes=*/false);
  const SimulationResult mixed = RunRatios(kMedium, Sizes::kSmallRatios, load, arrivals, /*mixes=*/true, 0.5);
  EXPECT_LT(mixed.mixed_steps, 0.03 * static_cast<double>(mixed.steps));
  EXPECT_GE(mixed.all.attainment(), apart.all.attainment() - 0.01);
}

TEST_P(SimulatedLoadTest, WaitsAreAsLongAsTheyWerePredicted) {
  const auto [arrivals, load] = GetParam();
  const SimulationResult run = RunLoad("deadline-fair", load, arrivals);
  EXPECT_NEAR(run.predicted_wait, run.actual_wait, 0.5 * run.actual_wait);
  EXPECT_GT(run.wait_hits, 0.6);
}

INSTANTIATE_TEST_SUITE_P(Loads, SimulatedLoadTest,
                         ::testing::Combine(::testing::Values(Arrivals::kPoisson, Arrivals::kBursty),
                                            ::testing::Values(0.7, 0.9, 1.1)),
                         [](const auto& info) {
                           const bool poisson = std::get<0>(info.param) == Arrivals::kPoisson;
                           return std::string(poisson ? "Poisson" : "Bursty") +
                                  std::to_string(std::lround(100 * std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace fresco
