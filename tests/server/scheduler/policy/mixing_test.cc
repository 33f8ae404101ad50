// Images of different sizes share a step where the engine takes them and it pays; what such a step is taken to cost,
// and what is learned of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/scheduler/policy/scheduling_core.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;

constexpr int kSmall = 1000, kWide = 1100, kLarge = 4000;  // tokens
constexpr int kMostRows = 16;
constexpr int64_t kBytesPerToken = 10;

// Of a step of so much work.
using StepTime = double (*)(double work);

// Two thirds of a step of one small image are there whatever else is computed: it takes 3 s.
double WithOverhead(double work) {
  return 2 + work / RelativeWork(kSmall);
}
double WithoutOverhead(double work) {
  return work / RelativeWork(kSmall);
}

struct Asked {
  char name = 'a';
  int tokens = kSmall;
  PriorityClass priority = PriorityClass::kStandard;
  int steps = 20;
  double deadline = 0;  // seconds from now; 0: none
  std::string key = "key";
  bool alone = false;
  bool one_type = false;
};

// Devices, images named by letters, and a clock.
class Bench {
 public:
  explicit Bench(StepTime step, const DeviceLimits& limits = {}, const std::string& policy = "deadline-fair") {
    for (int i = 0; i < 50; ++i) {  // so that little of a prediction is a guess
      for (int tokens : {kSmall, kWide, kLarge}) {
        for (int rows = 1; rows <= kMostRows; ++rows) {
          const double work = rows * RelativeWork(tokens);
          costs_.RecordStep(costs_.Curve("m", tokens), rows, absl::Seconds(step(work)));
          costs_.RecordMemory(costs_.Curve("m", tokens), rows, int64_t{rows} * tokens * kBytesPerToken);
        }
      }
    }
    CoreOptions options;
    options.policy = policy;
    core_ = *SchedulingCore::Create(options, &costs_);
    AddDevice(limits);
  }

  void AddDevice(const DeviceLimits& limits) { core_->SetLoaded(core_->AddDevice(limits), core_->Model("m"), true); }

  JobId Add(const Asked& asked) {
    RequestedJobs request;
    request.tenant = tenants_.emplace_back(1, asked.name);
    request.priority = asked.priority;
    request.model = core_->Model("m");
    request.sequence = sequence_++;
    if (asked.deadline > 0) request.deadline = now_ + absl::Seconds(asked.deadline);
    request.images = {{asked.key, asked.tokens, 1, asked.steps, 10}};
    request.images.front().alone = asked.alone;
    request.images.front().one_type = asked.one_type;
    const JobId job = core_->Add(request, now_).front();
    names_[job] = asked.name;
    return job;
  }

  // The names of the batch; who is preempted is in host memory at once.
  std::string Decide(DeviceId device = 0) {
    const Decision decision = core_->Decide(device, now_);
    for (JobId job : decision.preempt) core_->Parked(job, now_);
    std::string names;
    for (JobId job : decision.batch) names += names_.at(job);
    return names;
  }

  void Step(double seconds, DeviceId device = 0) {
    now_ += absl::Seconds(seconds);
    core_->StepDone(device, absl::Seconds(seconds));
  }

  double Served(JobId job) const { return core_->index().shares().served(core_->index().job(job).spec.tenant); }
  SchedulingCore* core() { return core_.get(); }

 private:
  CostModel costs_;
  std::unique_ptr<SchedulingCore> core_;
  std::vector<std::string> tenants_;
  std::map<JobId, char> names_;
  absl::Time now_ = absl::UnixEpoch();
  int64_t sequence_ = 0;
};

TEST(MixingTest, AnImageOfAnotherSizeJoinsWhereThatSavesTime) {
  Bench bench(WithOverhead);
  bench.Add({'a', kSmall});
  bench.Add({'b', kWide});
  EXPECT_EQ(bench.Decide(), "ab");
  bench.Step(4.1);
  bench.Add({'c', kSmall});
  EXPECT_EQ(bench.Decide(), "acb");  // its own size first
}

TEST(MixingTest, ItDoesNotWhereNothingIsSaved) {
  Bench bench(WithoutOverhead);
  bench.Add({'a', kSmall});
  bench.Add({'b', kWide});
  EXPECT_EQ(bench.Decide(), "a");
}

// A large one's part of the step would be most of it.
TEST(MixingTest, ALargeImageDoesNotHoldUpASmallOneThatIsMoreUrgent) {
  Bench bench(WithOverhead);
  bench.Add({'a', kSmall, PriorityClass::kInteractive});
  bench.Add({'b', kLarge, PriorityClass::kBatch});
  EXPECT_EQ(bench.Decide(), "a");
}

// A step of both saves a tenth of the second one's: enough for one of the same size, not for one of another.
TEST(MixingTest, WhatSavesLittleIsLeft) {
  for (const int second : {kSmall, kWide}) {
    Bench bench([](double work) { return 0.11 + work / RelativeWork(kSmall); });
    for (int i = 0; i < 8; ++i) bench.Add({'x', kLarge, PriorityClass::kBatch, 1, 0, "other texts"});  // who wait
    bench.Add({'a', kSmall, PriorityClass::kBatch, 1});
    bench.Add({'b', second, PriorityClass::kBatch, 1});
    EXPECT_EQ(bench.Decide(), second == kSmall ? "ab" : "a");
  }
}

TEST(MixingTest, ImagesThatTheEngineCannotTakeTogetherStayApart) {
  Bench bench(WithOverhead);
  bench.Add({'a', kSmall});
  bench.Add({'b', kWide, PriorityClass::kStandard, 20, 0, "other texts"});
  EXPECT_EQ(bench.Decide(), "a");
}

TEST(MixingTest, OfItsOwnSizeAllAreTakenBeforeAnyOther) {
  DeviceLimits limits;
  limits.max_batch = 2;
  Bench bench(WithOverhead, limits);
  bench.Add({'a', kSmall, PriorityClass::kInteractive});
  bench.Add({'b', kWide, PriorityClass::kStandard});
  bench.Add({'c', kSmall, PriorityClass::kBatch});
  EXPECT_EQ(bench.Decide(), "ac");
}

TEST(MixingTest, OfOtherSizesTheMostUrgentIsTakenFirstThoughItRunsAlready) {
  DeviceLimits limits;
  limits.max_batch = 2;
  Bench bench(WithOverhead, limits);
  bench.Add({'a', kWide});
  EXPECT_EQ(bench.Decide(), "a");
  bench.Step(3);
  bench.Add({'b', kSmall, PriorityClass::kStandard, 1});
  bench.Add({'c', kWide + 100, PriorityClass::kBatch});
  EXPECT_EQ(bench.Decide(), "ba");
}

TEST(MixingTest, WhatMustBeAloneIs) {
  for (const bool lead : {true, false}) {
    Bench bench(WithOverhead);
    bench.Add({'a', kSmall, PriorityClass::kStandard, 20, 0, "key", /*alone=*/lead});
    bench.Add({'b', kWide, PriorityClass::kStandard, 20, 0, "key", /*alone=*/!lead});
    EXPECT_EQ(bench.Decide(), "a") << lead;
  }
}

// The wide one began on the second device, which is of another type, and was preempted there.
TEST(MixingTest, WhatIsBoundToATypeOfDevicesJoinsOnNoOther) {
  DeviceLimits limits;
  limits.max_resident = 1;
  Bench bench(WithOverhead, limits);
  limits.type = 1;
  bench.AddDevice(limits);
  bench.Add({'a', kWide, PriorityClass::kBatch, 20, 0, "key", false, /*one_type=*/true});
  ASSERT_EQ(bench.Decide(1), "a");
  bench.Step(2, 1);
  bench.Add({'b', kLarge, PriorityClass::kInteractive, 2, 0, "other texts"});
  ASSERT_EQ(bench.Decide(1), "b");
  bench.Add({'c', kSmall});
  EXPECT_EQ(bench.Decide(0), "c");
}

TEST(MixingTest, AStepStaysWithinTheDevicesMemory) {
  DeviceLimits limits;
  limits.activation_bytes = (kSmall + 2 * kWide) * kBytesPerToken - 1;
  Bench bench(WithOverhead, limits);
  bench.Add({'a', kSmall});
  bench.Add({'b', kWide});
  bench.Add({'c', kWide});
  EXPECT_EQ(bench.Decide(), "ab");
}

// By itself the first makes its 20 steps in 60 s, with the other in 82 s.
TEST(MixingTest, NobodyIsMadeLateNorLosesMoreThanHalfOfWhatItCanSpare) {
  for (const auto& [deadline, batch] : std::map<double, std::string>{{80, "a"}, {100, "a"}, {110, "ab"}}) {
    Bench bench(WithOverhead);
    bench.Add({'a', kSmall, PriorityClass::kStandard, 20, deadline});
    bench.Add({'b', kWide, PriorityClass::kStandard, 20, 200});
    EXPECT_EQ(bench.Decide(), batch) << deadline;
  }
}

// What two images fill is a wave of thread blocks: of a third's step little is saved, of a fourth's most.
double InWaves(double work) {
  return work > 2 * RelativeWork(kWide) ? 4.2 : 2;
}

TEST(MixingTest, WhatDoesNotPayIsTakenForTheSakeOfWhatThenDoesAndElseNot) {
  DeviceLimits limits;
  limits.max_batch = 4;
  for (const bool fourth : {false, true}) {
    Bench bench(InWaves, limits);
    bench.Add({'a', kSmall, PriorityClass::kStandard, 1});
    bench.Add({'b', kSmall, PriorityClass::kStandard, 1});
    bench.Add({'c', kWide, PriorityClass::kBatch, 1});
    if (fourth) bench.Add({'d', kWide, PriorityClass::kBatch, 1});
    EXPECT_EQ(bench.Decide(), fourth ? "abcd" : "ab");
  }
}

TEST(MixingTest, PoliciesThatGoByArrivalKeepSizesApart) {
  for (const char* policy : {"fifo", "dynamic"}) {
    Bench bench(WithOverhead, {}, policy);
    bench.Add({'a', kSmall});
    bench.Add({'b', kWide});
    bench.Add({'c', kSmall});
    EXPECT_EQ(bench.Decide(), policy == std::string("fifo") ? "a" : "ac");
    bench.Step(3);
    EXPECT_EQ(bench.Decide(), policy == std::string("fifo") ? "a" : "ac");
  }
}

// Nothing starts on the device for the first time: of what waits only what has begun is there for it.
TEST(MixingTest, WhereNothingNewStartsWhatHasBegunJoins) {
  CostModel costs;
  QueueIndex index({}, &costs);
  const ModelId model = index.Model("m");
  const DeviceId device = index.AddDevice({});
  index.SetLoaded(device, model, true);
  const auto add = [&](int tokens) {
    JobSpec spec;
    spec.tenant = index.Tenant("t", 1);
    spec.steps = 4;
    spec.group = index.GroupOf(model, "key", tokens);
    return index.Add(spec, absl::UnixEpoch());
  };
  const JobId lead = add(kSmall), begun = add(kWide), fresh = add(kLarge);
  index.Start(begun, device);
  index.Advanced(begun);
  index.Preempt(begun);
  index.Parked(begun, absl::UnixEpoch());
  const auto group = [&](JobId job) { return index.job(job).spec.group; };
  EXPECT_THAT(index.WaitingKin(group(lead), device, 8), ::testing::UnorderedElementsAre(group(begun), group(fresh)));
  EXPECT_EQ(index.WaitingKin(group(lead), device, 1).size(), 1u);
  index.SetBegunOnly(device, true);
  EXPECT_THAT(index.WaitingKin(group(lead), device, 8), ElementsAre(group(begun)));
}

// Whoever shares a step pays for it by what is computed for them.
TEST(MixingTest, TenantsAreChargedByWork) {
  Bench bench(WithOverhead);
  const JobId small = bench.Add({'a', kSmall}), wide = bench.Add({'b', kWide});
  ASSERT_EQ(bench.Decide(), "ab");
  const double before[] = {bench.Served(small), bench.Served(wide)};
  bench.Step(3);
  const double charged[] = {bench.Served(small) - before[0], bench.Served(wide) - before[1]};
  EXPECT_NEAR(charged[0] + charged[1], 3, 1e-9);
  // 1,100 tokens: a tenth more of linears, and a fifth more of the little that is attention.
  EXPECT_GT(charged[1] / charged[0], 1.1);
  EXPECT_LT(charged[1] / charged[0], 1.21);
}

// A step of both ran out of memory, each half did not: from now on they go one by one.
TEST(MixingTest, AMixtureThatDoesNotFitIsNotTriedAgainAtOnce) {
  Bench bench(WithOverhead);
  const JobId small = bench.Add({'a', kSmall}), wide = bench.Add({'b', kWide});
  ASSERT_EQ(bench.Decide(), "ab");
  const absl::Duration step = absl::Seconds(2);
  bench.core()->StepDone(0, {{{small, wide}, step, 0, true}, {{small}, step, 0}, {{wide}, step, 0}});
  EXPECT_EQ(bench.Decide().size(), 1u);
}

TEST(MixingTest, WhatIsForetoldOfAStepIsOfAllThatIsInIt) {
  Bench bench(WithOverhead);
  const JobId small = bench.Add({'a', kSmall}), wide = bench.Add({'b', kWide});
  ASSERT_EQ(bench.Decide(), "ab");
  const auto forecast = bench.core()->Forecast(0, {small, wide});
  const double seconds = WithOverhead(RelativeWork(kSmall) + RelativeWork(kWide));
  EXPECT_NEAR(absl::ToDoubleSeconds(forecast.duration), seconds, 0.01);
  EXPECT_EQ(forecast.activation_bytes, 2 * kWide * kBytesPerToken);
  bench.Step(seconds);
  EXPECT_EQ(bench.core()->Remaining(small, absl::Seconds(3)), absl::Seconds(19 * 3));
  bench.core()->Remove(wide);
  EXPECT_NEAR(absl::ToDoubleSeconds(bench.core()->Forecast(0, {small, wide}).duration), 3, 0.01);
}

// The image of the other size is gone when its step is done (it was cancelled, or failed): the step was no less mixed.
TEST(MixingTest, AStepIsLearnedOfAsItWasMade) {
  Bench bench(WithOverhead);
  const JobId small = bench.Add({'a', kSmall}), wide = bench.Add({'b', kWide});
  const auto small_step = [&] { return bench.core()->Forecast(0, {small}).duration; };
  const absl::Duration before = small_step();
  ASSERT_EQ(bench.Decide(), "ab");
  bench.core()->Remove(wide);
  bench.Step(WithOverhead(RelativeWork(kSmall) + RelativeWork(kWide)));
  EXPECT_EQ(small_step(), before);
}

// What a mixed step costs.

StepSize Rows(CostModel* costs, const std::map<int, int>& rows_by_tokens) {
  StepSize size;
  for (const auto& [tokens, rows] : rows_by_tokens) size.Add(costs->Curve("m", tokens), tokens, rows);
  return size;
}

class MixedCostTest : public ::testing::Test {
 protected:
  double Seconds(const std::map<int, int>& rows) { return costs_.StepSeconds(Rows(&costs_, rows)); }
  void Record(const std::map<int, int>& rows, double seconds) {
    costs_.RecordStep(Rows(&costs_, rows), absl::Seconds(seconds));
  }
  // All sizes and rows, as they are without mixing.
  void LearnAll(double (*step)(double work)) {
    for (int i = 0; i < 50; ++i) {
      for (int tokens : {kSmall, kLarge}) {
        for (int rows = 1; rows <= kMostRows; ++rows) Record({{tokens, rows}}, step(rows * RelativeWork(tokens)));
      }
    }
  }

  CostModel costs_;
};

TEST_F(MixedCostTest, RowsAreCountedByWorkAndByTokens) {
  const StepSize size = Rows(&costs_, {{kSmall, 2}, {kLarge, 1}});
  EXPECT_TRUE(size.mixed());
  EXPECT_EQ(size.rows(), 3);
  EXPECT_EQ(size.tokens(), 6000);
  // 1,000 tokens: 1000 (1 + 1000/14600) = 1068.5; 4,000: 5095.9.
  EXPECT_NEAR(size.RowsByWork(), 1 + 2 * 1068.5 / 5095.9, 1e-4);
  EXPECT_EQ(size.RowsByTokens(), 2);
  EXPECT_EQ(size.curve(), costs_.Curve("m", kLarge));
  EXPECT_EQ(Rows(&costs_, {{kSmall, 1}, {kLarge, 4}}).RowsByTokens(), 5);  // what is begun counts as a whole
}

TEST_F(MixedCostTest, AStepOfOneSizeIsPredictedAsEver) {
  LearnAll(WithOverhead);
  for (int rows = 1; rows <= kMostRows + 2; ++rows) {
    const StepSize size = Rows(&costs_, {{kSmall, rows}});
    EXPECT_FALSE(size.mixed());
    EXPECT_EQ(costs_.StepSeconds(size), costs_.StepSeconds(costs_.Curve("m", kSmall), rows));
    EXPECT_EQ(costs_.ActivationBytes(size), costs_.ActivationBytes(costs_.Curve("m", kSmall), rows));
  }
  EXPECT_EQ(costs_.StepSeconds(StepSize()), 0);
}

TEST_F(MixedCostTest, AMixedStepTakesWhatItsWorkTakes) {
  LearnAll(WithOverhead);
  for (const auto& [small, large] : {std::pair(1, 1), std::pair(3, 2), std::pair(7, 1), std::pair(1, 6)}) {
    const double work = small * RelativeWork(kSmall) + large * RelativeWork(kLarge);
    EXPECT_NEAR(Seconds({{kSmall, small}, {kLarge, large}}) / WithOverhead(work), 1, 0.005) << small << " " << large;
  }
}

TEST_F(MixedCostTest, WhatMixingCostsIsLearnedAndSpoilsNoSizesOwn) {
  LearnAll(WithOverhead);
  const std::map<int, int> mixture = {{kSmall, 2}, {kLarge, 2}};
  const double own[] = {Seconds({{kSmall, 2}}), Seconds({{kLarge, 2}}), Seconds({{kLarge, 3}})};
  const double mixed = Seconds(mixture);
  for (int i = 0; i < 200; ++i) Record(mixture, 1.3 * mixed);
  EXPECT_NEAR(Seconds(mixture) / mixed, 1.3, 0.03);
  EXPECT_NEAR(Seconds({{kSmall, 5}, {kLarge, 1}}) / WithOverhead(5 * RelativeWork(kSmall) + RelativeWork(kLarge)), 1.3,
              0.05);
  EXPECT_NEAR(Seconds({{kSmall, 2}}) / own[0], 1, 0.03);
  EXPECT_NEAR(Seconds({{kLarge, 2}}) / own[1], 1, 0.03);
  EXPECT_NEAR(Seconds({{kLarge, 3}}) / own[2], 1, 0.03);
}

// The device is slow: all of its steps are, and mixing costs no more than it did.
TEST_F(MixedCostTest, ASlowDeviceIsNotTakenForACostOfMixing) {
  LearnAll(WithOverhead);
  const std::map<int, int> mixture = {{kSmall, 2}, {kLarge, 2}};
  const double mixed = Seconds(mixture), own = Seconds({{kLarge, 2}});
  for (int i = 0; i < 100; ++i) Record(mixture, mixed);
  for (int i = 0; i < 50; ++i) Record(mixture, 2 * mixed);
  EXPECT_NEAR(Seconds(mixture) / mixed, 2, 0.1);
  EXPECT_NEAR(Seconds({{kLarge, 2}}) / own, 2, 0.3);
}

TEST_F(MixedCostTest, WhatMixingCostIsForgottenAndTriedAgain) {
  LearnAll(WithOverhead);
  const std::map<int, int> mixture = {{kSmall, 2}, {kLarge, 2}};
  const double mixed = Seconds(mixture);
  for (int i = 0; i < 100; ++i) Record(mixture, 2 * mixed);
  ASSERT_GT(Seconds(mixture), 1.8 * mixed);
  for (int i = 0; i < 2000; ++i) Record({{kSmall, 2}}, WithOverhead(2 * RelativeWork(kSmall)));
  EXPECT_LT(Seconds(mixture), 1.1 * mixed);
}

// Of a model of which nothing was measured.
TEST_F(MixedCostTest, TheFirstStepTellsThoughItIsMixed) {
  const std::map<int, int> mixture = {{kSmall, 2}, {kLarge, 2}};
  EXPECT_EQ(Seconds(mixture), 0);
  Record(mixture, 5);
  EXPECT_NEAR(Seconds(mixture), 5, 1);
  EXPECT_GT(Seconds({{kLarge, 4}}), Seconds({{kLarge, 1}}));
  EXPECT_GT(Seconds({{kSmall, 1}}), 0);
}

TEST_F(MixedCostTest, NonsenseTeachesNothing) {
  LearnAll(WithOverhead);
  const std::map<int, int> mixture = {{kSmall, 2}, {kLarge, 2}};
  const double mixed = Seconds(mixture);
  for (const absl::Duration duration : {absl::InfiniteDuration(), -absl::Seconds(1), absl::ZeroDuration()}) {
    costs_.RecordStep(Rows(&costs_, mixture), duration);
  }
  costs_.RecordMemory(Rows(&costs_, mixture), -1);
  EXPECT_EQ(Seconds(mixture), mixed);
}

// Refusals go by what a size by itself has been seen to need: what is refused is never drawn.
TEST_F(MixedCostTest, MemoryOfAMixedStepIsRatherTooMuchAndRefusesNobody) {
  const std::map<int, int> mixture = {{kSmall, 1}, {kLarge, 1}};
  const CurveId large = costs_.Curve("m", kLarge);
  costs_.RecordMemory(large, 1, kLarge * kBytesPerToken);
  EXPECT_GE(costs_.ActivationBytes(Rows(&costs_, mixture)), (kSmall + kLarge) * kBytesPerToken);
  costs_.RecordMemory(Rows(&costs_, mixture), 20 * (kSmall + kLarge) * kBytesPerToken);
  for (int rows : {1, 2}) {
    EXPECT_LE(costs_.LeastActivationBytes(large, rows), kLarge * kBytesPerToken);
    EXPECT_LE(costs_.SeenActivationBytes(large, rows), kLarge * kBytesPerToken);
  }
  // Of sizes of which nothing else is known.
  EXPECT_EQ(costs_.ActivationBytes(costs_.Curve("m", 2000), 1), 20 * 2000 * kBytesPerToken);
}

}  // namespace
}  // namespace fresco
