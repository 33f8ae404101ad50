// What each policy starts next, case by case, and what the core does around it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "server/scheduler/policy/scheduling_core.h"

namespace fresco {
namespace {

using ::testing::HasSubstr;

constexpr PriorityClass kInteractive = PriorityClass::kInteractive;
constexpr PriorityClass kStandard = PriorityClass::kStandard;
constexpr PriorityClass kBatch = PriorityClass::kBatch;
constexpr int kSmall = 1000, kLarge = 4000;  // tokens

// An image that waits: named by a letter.
struct Asked {
  char name = 'a';
  PriorityClass priority = kStandard;
  int tokens = kSmall;
  int steps = 10;
  std::string tenant = "t";
  double deadline = 0;  // seconds from now; 0: none
};

// A device whose steps of small images take 100 ms whatever their number, and of large ones 1 s for each row.
class Bench {
 public:
  explicit Bench(const std::string& policy, const DeviceLimits& limits = {}) {
    for (int rows = 1; rows <= 16; ++rows) {
      costs_.RecordStep(costs_.Curve("m", kSmall), rows, absl::Milliseconds(100));
      costs_.RecordStep(costs_.Curve("m", kLarge), rows, absl::Seconds(rows));
    }
    CoreOptions options;
    options.policy = policy;
    options.fairness_window = absl::Seconds(5);
    core_ = *SchedulingCore::Create(options, &costs_);
    model_ = core_->Model("m");
    AddDevice(limits);
  }

  DeviceId AddDevice(const DeviceLimits& limits = {}) {
    const DeviceId device = core_->AddDevice(limits);
    core_->SetLoaded(device, model_, true);
    return device;
  }

  RequestedJobs RequestOf(const Asked& asked, const std::string& key) {
    RequestedJobs request;
    request.tenant = asked.tenant;
    request.priority = asked.priority;
    request.model = model_;
    request.sequence = sequence_++;
    if (asked.deadline > 0) request.deadline = now_ + absl::Seconds(asked.deadline);
    request.images = {{key, asked.tokens, 1, asked.steps, 1000}};
    return request;
  }

  void Add(const Asked& asked) {
    const std::string key = std::to_string(asked.tokens);
    const JobId job = core_->Add(RequestOf(asked, key), now_).front();
    if (static_cast<JobId>(names_.size()) <= job) names_.resize(job + 1);
    names_[job] = asked.name;
  }

  Admission Admit(const Asked& asked) {
    const std::string key = std::to_string(asked.tokens);
    return core_->Admit(RequestOf(asked, key), now_);
  }

  // One step boundary: the batch's names, in the order of the decision.
  std::string Decide(DeviceId device = 0) {
    last_ = core_->Decide(device, now_);
    return NamesOf(last_.batch);
  }
  std::string Preempted() {
    const std::string names = NamesOf(last_.preempt);
    for (JobId job : last_.preempt) core_->Parked(job, now_);
    return names;
  }
  std::string Step(absl::Duration duration, DeviceId device = 0) {
    now_ += duration;
    return NamesOf(core_->StepDone(device, duration));
  }
  // With so many steps to go for the image of that name.
  void Displace(char name, int steps_left) { core_->Displace(static_cast<JobId>(names_.find(name)), steps_left, now_); }
  void RemoveDevice(DeviceId device) { core_->RemoveDevice(device); }
  std::string DropHopeless() { return NamesOf(core_->DropHopeless(0, now_)); }
  void Pass(absl::Duration duration) { now_ += duration; }
  CostModel* costs() { return &costs_; }
  SchedulingCore* core() { return core_.get(); }
  const SchedulingCore& core() const { return *core_; }

 private:
  std::string NamesOf(const std::vector<JobId>& jobs) {
    std::string names;
    for (JobId job : jobs) names += names_[job];
    return names;
  }

  CostModel costs_;
  std::unique_ptr<SchedulingCore> core_;
  ModelId model_ = 0;
  absl::Time now_ = absl::UnixEpoch();
  int64_t sequence_ = 0;
  std::string names_;
  Decision last_;
};

struct Case {
  std::string name;
  std::string policy;
  std::vector<Asked> waiting;  // in the order of arrival
  std::string batch;           // that the free device starts
};

class FirstBatchTest : public ::testing::TestWithParam<Case> {};

TEST_P(FirstBatchTest, Is) {
  Bench bench(GetParam().policy);
  for (const Asked& asked : GetParam().waiting) bench.Add(asked);
  EXPECT_EQ(bench.Decide(), GetParam().batch);
}

std::vector<Asked> Same(int count, const Asked& asked) {
  std::vector<Asked> all(count, asked);
  for (int i = 0; i < count; ++i) all[i].name = static_cast<char>('a' + i);
  return all;
}

INSTANTIATE_TEST_SUITE_P(
    Fifo, FirstBatchTest,
    ::testing::Values(Case{"NothingWaits", "fifo", {}, ""},
                      Case{"WhatIsNextTogether", "fifo", {{'a'}, {'b'}, {'c', kStandard, kLarge}, {'d'}}, "ab"},
                      Case{"WhateverItsPriority", "fifo", {{'a', kBatch}, {'b', kInteractive, kLarge}}, "a"},
                      Case{"NoMoreThanABatch", "fifo", Same(10, {}), "abcdefgh"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Dynamic, FirstBatchTest,
    ::testing::Values(Case{"NothingWaits", "dynamic", {}, ""},
                      Case{"LooksPastOthers", "dynamic", {{'a'}, {'b'}, {'c', kStandard, kLarge}, {'d'}}, "abd"},
                      Case{"TheFirstToArriveLeads", "dynamic", {{'a', kBatch, kLarge}, {'b', kInteractive}}, "a"},
                      Case{"NoMoreThanABatch", "dynamic", Same(10, {}), "abcdefgh"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    DeadlineFair, FirstBatchTest,
    ::testing::Values(
        Case{"NothingWaits", "deadline-fair", {}, ""},
        Case{"ByPriority",  // as its target says
             "deadline-fair",
             {{'a', kBatch, kLarge, 1}, {'b', kStandard, kLarge, 1}, {'c', kInteractive, kLarge, 1}},
             "c"},
        Case{"SoonestDueFirst", "deadline-fair", {{'a', kStandard, kLarge, 2}, {'b', kStandard, kLarge, 1}}, "b"},
        Case{"TheCallsOwnDeadline",
             "deadline-fair",
             {{'a', kStandard, kLarge, 1}, {'b', kStandard, kLarge, 2, "t", 3}},
             "b"},
        Case{"InOrderOfArrivalAmongEquals", "deadline-fair", {{'a', kStandard, kLarge}, {'b', kStandard, kLarge}}, "a"},
        Case{"TogetherWhereItIsFree", "deadline-fair", Same(4, {}), "abcd"},
        Case{"OneByOneWhereNothingIsGained", "deadline-fair", Same(4, {'a', kStandard, kLarge, 1}), "a"},
        Case{"NoMoreThanABatch", "deadline-fair", Same(10, {}), "abcdefgh"}),
    [](const auto& info) { return info.param.name; });

TEST(FifoTest, TakesTheNextIntoAFreePlaceButLetsNothingOvertake) {
  Bench bench("fifo");
  bench.Add({'a'});
  EXPECT_EQ(bench.Decide(), "a");
  bench.Step(absl::Milliseconds(100));
  bench.Add({'b'});
  EXPECT_EQ(bench.Decide(), "ab");
  bench.Step(absl::Milliseconds(100));
  bench.Add({'c', kInteractive, kLarge});
  bench.Add({'d'});
  EXPECT_EQ(bench.Decide(), "ab");
}

TEST(DynamicTest, ABatchRunsToItsEndAsItWasFormed) {
  Bench bench("dynamic");
  bench.Add({'a', kStandard, kSmall, 1});
  bench.Add({'b', kStandard, kSmall, 2});
  EXPECT_EQ(bench.Decide(), "ab");
  EXPECT_EQ(bench.Step(absl::Milliseconds(100)), "a");
  bench.Add({'c', kInteractive});
  EXPECT_EQ(bench.Decide(), "b");
  EXPECT_EQ(bench.Step(absl::Milliseconds(100)), "b");
  EXPECT_EQ(bench.Decide(), "c");
}

// A crowd of equals, whose steps turn out to take three times as long as was predicted when they came, all of them
// late.
TEST(DeadlineFairTest, WhatHasBegunIsDoneBeforeItsEqualsBegin) {
  constexpr int kCrowd = 24;
  Bench bench("deadline-fair");
  for (const Asked& asked : Same(kCrowd, {'a', kStandard, kSmall, 100})) bench.Add(asked);
  std::set<char> begun;
  size_t most = 0;
  for (int done = 0; done < kCrowd;) {
    for (char name : bench.Decide()) begun.insert(name);
    bench.Preempted();
    most = std::max(most, begun.size());
    for (char name : bench.Step(absl::Seconds(1))) {
      begun.erase(name);
      ++done;
    }
  }
  EXPECT_LE(most, 2 * static_cast<size_t>(DeviceLimits().max_batch));
}

TEST(DeadlineFairTest, InteractivePreemptsAtTheNextStepAndTheOtherGoesOnWhereItWas) {
  Bench bench("deadline-fair");
  bench.Add({'a', kBatch, kLarge, 3});
  EXPECT_EQ(bench.Decide(), "a");
  bench.Step(absl::Seconds(1));
  bench.Add({'b', kInteractive, kLarge, 1});
  EXPECT_EQ(bench.Decide(), "b");
  EXPECT_EQ(bench.Preempted(), "");  // there is room for its state on the device
  EXPECT_EQ(bench.Step(absl::Seconds(1)), "b");
  EXPECT_EQ(bench.Decide(), "a");
  EXPECT_EQ(bench.Step(absl::Seconds(1)), "");
  EXPECT_EQ(bench.Decide(), "a");
  EXPECT_EQ(bench.Step(absl::Seconds(1)), "a");
}

TEST(DeadlineFairTest, StatesBeyondTheBudgetGoToHostMemoryLastRanksFirst) {
  DeviceLimits limits;
  limits.state_bytes = 2000;  // of two images
  Bench bench("deadline-fair", limits);
  bench.Add({'a', kBatch, kLarge, 9});
  bench.Decide();
  bench.Step(absl::Seconds(1));
  bench.Add({'b', kStandard, kLarge, 9});
  EXPECT_EQ(bench.Decide(), "b");
  EXPECT_EQ(bench.Preempted(), "");
  bench.Step(absl::Seconds(1));
  bench.Add({'c', kInteractive, kLarge, 1});
  EXPECT_EQ(bench.Decide(), "c");
  EXPECT_EQ(bench.Preempted(), "a");
  EXPECT_EQ(bench.Step(absl::Seconds(1)), "c");
  EXPECT_EQ(bench.Decide(), "b");
}

TEST(DeadlineFairTest, WhatIsPausedMovesToADeviceThatIsFree) {
  Bench bench("deadline-fair");
  bench.Add({'a', kBatch, kLarge, 3});
  bench.Decide();
  bench.Step(absl::Seconds(1));
  bench.Add({'b', kInteractive, kLarge, 3});
  const DeviceId other = bench.AddDevice();
  EXPECT_EQ(bench.Decide(), "b");
  EXPECT_EQ(bench.Preempted(), "a");
  EXPECT_EQ(bench.Decide(other), "a");
}

TEST(DeadlineFairTest, NobodyJoinsWhereThatWouldMakeOthersLate) {
  Bench bench("deadline-fair");
  for (int i = 0; i < 300; ++i) {
    for (int rows = 1; rows <= 16; ++rows) {  // two share a step well, but for its length
      bench.costs()->RecordStep(bench.costs()->Curve("m", kSmall), rows, absl::Milliseconds(rows == 1 ? 100 : 150));
    }
  }
  bench.Add({'a', kStandard, kSmall, 10, "t", 1.2});  // 1 s by itself, 1.5 s with another
  for (char name : {'b', 'c', 'd', 'e', 'f', 'g'}) bench.Add({name, kStandard, kSmall, 10});
  EXPECT_EQ(bench.Decide(), "a");
}

TEST(DeadlineFairTest, ATenantBeyondItsShareComesAfterOthersOfAnyClass) {
  Bench bench("deadline-fair");
  bench.Add({'w', kStandard, kLarge, 50, "modest"});
  std::string order;
  for (int i = 0; i < 14; ++i) {
    bench.Add({'a', kInteractive, kLarge, 1, "greedy"});
    order += bench.Decide();
    bench.Step(absl::Seconds(1));
  }
  // Ahead by fairness_window of the one device, then in turns.
  EXPECT_EQ(order, "aaaaaawawawawa");
}

TEST(DeadlineFairTest, ALateImageTakesWhatOthersLeaveUntilTwoFifthsOfWhatItMayWaitHaveGone) {
  Bench bench("deadline-fair");
  bench.Add({'a', kStandard, kLarge, 5});  // due after 17 s
  bench.Pass(absl::Seconds(119));
  bench.Add({'b', kInteractive, kLarge, 1});
  EXPECT_EQ(bench.Decide(), "b");
  bench.Step(absl::Seconds(1));
  bench.Add({'c', kInteractive, kLarge, 1});
  EXPECT_EQ(bench.Decide(), "a");  // two fifths of five minutes: it was due before the other is
}

TEST(DeadlineFairTest, AgeMovesAnImageAheadOfAllThatWereDueBefore) {
  Bench bench("deadline-fair");
  bench.Add({'a', kStandard, kLarge, 10});  // due after 32 s
  bench.Pass(absl::Seconds(122));
  bench.Add({'b', kInteractive, kLarge, 1});
  EXPECT_EQ(bench.Decide(), "a");
  bench.Step(absl::Seconds(1));
  EXPECT_EQ(bench.Decide(), "a");
  bench.Step(absl::Seconds(1));
  bench.Pass(absl::Seconds(3.3));
  EXPECT_EQ(bench.Decide(), "b");  // 65 % of its eight seconds have passed
}

TEST(DeadlineFairTest, AnAgedImageThatRunsHoldsUpNoneThatMustStillStart) {
  Bench bench("deadline-fair");
  bench.Add({'a', kInteractive, kLarge, 30});
  bench.Pass(absl::Seconds(9));  // more than a may wait, and so with all that it takes
  bench.Add({'b', kInteractive, kLarge, 30});
  EXPECT_EQ(bench.Decide(), "a");
  bench.Step(absl::Seconds(1));
  bench.Pass(absl::Seconds(5));  // b has waited for six of its eight seconds
  EXPECT_EQ(bench.Decide(), "b");
}

TEST(DeadlineFairTest, NothingJoinsAModelThatIsBeingUnloaded) {
  for (const char* policy : {"fifo", "deadline-fair"}) {
    Bench bench(policy);
    bench.Add({'a'});
    EXPECT_EQ(bench.Decide(), "a");
    bench.Step(absl::Milliseconds(100));
    bench.Add({'b'});
    bench.core()->SetLoaded(0, 0, false);
    EXPECT_EQ(bench.Decide(), "a") << policy;
    bench.core()->SetLoaded(0, 0, true);
    bench.Step(absl::Milliseconds(100));
    EXPECT_EQ(bench.Decide(), "ab") << policy;
  }
}

TEST(DeadlineFairTest, NothingStartsOnADeviceWithoutItsModelThoughItGoesBeforeWhatRunsThere) {
  Bench bench("deadline-fair");
  bench.Add({'a'});
  EXPECT_EQ(bench.Decide(), "a");
  bench.Step(absl::Milliseconds(100));
  bench.Add({'b', kInteractive});  // due before the other
  bench.core()->SetLoaded(0, 0, false);
  EXPECT_EQ(bench.Decide(), "a");
}

TEST(TenantsTest, ThoseWhoComeOnceAreForgottenAndNoTwoShareANumber) {
  CostModel costs;
  QueueIndex index({}, &costs);
  for (int i = 0; i < 100'000; ++i) index.Tenant("once-" + std::to_string(i), 1);
  EXPECT_LT(index.shares().size(), 5000);
  std::set<TenantId> numbers;
  for (int i = 0; i < 1000; ++i) numbers.insert(index.Tenant("new-" + std::to_string(i), 1));
  EXPECT_EQ(numbers.size(), 1000u);
}

TEST(TenantsTest, AllowanceThatGrowsIsSeenByThoseWhoWait) {
  FairShare shares;
  shares.SetAllowance(5);
  const TenantId modest = shares.Tenant("modest", 1);
  const TenantId greedy = shares.Tenant("greedy", 1);
  for (TenantId tenant : {modest, greedy}) shares.SetBacklogged(tenant, true);
  shares.Charge(greedy, 6);
  EXPECT_TRUE(shares.beyond(greedy));
  EXPECT_EQ(shares.TakeChanged(), std::vector<TenantId>{greedy});
  shares.SetAllowance(10);  // another device has come
  EXPECT_FALSE(shares.beyond(greedy));
  EXPECT_EQ(shares.TakeChanged(), std::vector<TenantId>{greedy});
}

TEST(DeadlineFairTest, OnlyAsManyLeaveAsThereAreFreeDevices) {
  Bench bench("deadline-fair");
  for (char name : {'a', 'b', 'c'}) {  // each of them sooner due than the one before
    bench.Add({name, kStandard, kLarge, 30 - 10 * (name - 'a')});
    bench.Decide();
    bench.Step(absl::Seconds(1));
  }
  bench.AddDevice();
  EXPECT_EQ(bench.Decide(), "c");
  EXPECT_EQ(bench.Preempted(), "b");  // the other stays: nobody would take it
}

TEST(TenantsTest, AWeightOrATimeThatIsNoneLeavesTheOthersTheirShares) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  FairShare shares;
  const TenantId good = shares.Tenant("good", 1);
  shares.SetBacklogged(good, true);
  for (double weight : {0.0, -1.0, kNan, kInfinity}) {
    const TenantId bad = shares.Tenant("bad", weight);
    shares.Charge(bad, 1);
    for (double seconds : {-1.0, kNan, kInfinity}) shares.Charge(good, seconds);
    EXPECT_TRUE(std::isfinite(shares.served(bad)));
    EXPECT_GT(shares.served(bad), 1000);  // next to no weight
  }
  EXPECT_EQ(shares.served(good), 0);
  EXPECT_EQ(shares.virtual_time(), 0);
}

TEST(DropTest, WaitingAndRunningImagesThatCannotMeetTheirDeadlinesAreDropped) {
  Bench bench("deadline-fair");
  bench.Add({'a', kStandard, kLarge, 3, "t", 3.5});
  bench.Add({'b', kStandard, kLarge, 3, "t", 100});
  EXPECT_EQ(bench.DropHopeless(), "");
  EXPECT_EQ(bench.Decide(), "a");
  bench.Step(absl::Seconds(2));  // twice what was predicted
  EXPECT_EQ(bench.DropHopeless(), "a");
  EXPECT_EQ(bench.Decide(), "b");
}

TEST(AdmissionTest, AnIdleServerTakesAllAndPromisesNoWait) {
  Bench bench("deadline-fair");
  const Admission admission = bench.Admit({'a', kInteractive, kLarge, 10});
  EXPECT_EQ(admission.refusal, Admission::Refusal::kNone);
  EXPECT_EQ(admission.wait, absl::ZeroDuration());
  EXPECT_NEAR(absl::ToDoubleSeconds(admission.finish), 10, 0.1);
}

TEST(AdmissionTest, AFullClassIsRefusedWithWhenToComeAgainAndTheOneAboveIsNot) {
  Bench bench("deadline-fair");
  Admission admission;
  int taken = 0;
  while (taken < 1000) {
    const Asked asked{'a', kBatch, kLarge, 9, "tenant" + std::to_string(taken)};
    admission = bench.Admit(asked);
    if (admission.refusal != Admission::Refusal::kNone) break;
    bench.Add(asked);
    bench.Decide();
    ++taken;
  }
  // A fifth of ten minutes: thirteen images of 9 s, and the one that runs.
  EXPECT_EQ(taken, 14);
  EXPECT_EQ(admission.refusal, Admission::Refusal::kQueueFull);
  EXPECT_GE(admission.retry_after, absl::Seconds(5));
  EXPECT_THAT(admission.message, HasSubstr("queue is full"));
  EXPECT_EQ(bench.Admit({'b', kInteractive, kSmall, 10, "other"}).refusal, Admission::Refusal::kNone);
}

TEST(AdmissionTest, OneTenantFillsNoMoreThanHalf) {
  Bench bench("deadline-fair");
  int taken = 0;
  while (taken < 1000 && bench.Admit({'a', kBatch, kLarge, 10, "greedy"}).refusal == Admission::Refusal::kNone) {
    bench.Add({'a', kBatch, kLarge, 10, "greedy"});
    bench.Decide();
    ++taken;
  }
  EXPECT_EQ(taken, 7);  // six wait
  EXPECT_EQ(bench.Admit({'a', kBatch, kLarge, 10, "greedy"}).refusal, Admission::Refusal::kTenantShare);
  EXPECT_EQ(bench.Admit({'b', kBatch, kLarge, 10, "modest"}).refusal, Admission::Refusal::kNone);
}

TEST(AdmissionTest, ADeadlineThatCannotBeMetIsRefused) {
  Bench bench("deadline-fair");
  const Admission never = bench.Admit({'a', kInteractive, kLarge, 10, "t", 5});
  EXPECT_EQ(never.refusal, Admission::Refusal::kDeadline);
  EXPECT_EQ(never.retry_after, absl::ZeroDuration());  // it takes 10 s by itself
  bench.Add({'a', kInteractive, kLarge, 30, "t"});
  bench.Decide();
  const Admission later = bench.Admit({'b', kInteractive, kLarge, 10, "t", 15});
  EXPECT_EQ(later.refusal, Admission::Refusal::kDeadline);
  EXPECT_GT(later.retry_after, absl::ZeroDuration());
}

TEST(AdmissionTest, WhatNoDeviceHasMemoryForIsRefusedForGood) {
  DeviceLimits limits;
  limits.memory_bytes = 1'000'000;
  Bench bench("deadline-fair", limits);
  bench.costs()->RecordMemory(bench.costs()->Curve("m", kSmall), 1, 500'000);
  bench.costs()->RecordMemory(bench.costs()->Curve("m", kLarge), 1, 2'000'000);
  EXPECT_EQ(bench.Admit({'a', kStandard, kSmall}).refusal, Admission::Refusal::kNone);
  for (int tokens : {kLarge, kLarge + 1}) {  // what is larger needs no less
    const Admission refused = bench.Admit({'b', kStandard, tokens});
    EXPECT_EQ(refused.refusal, Admission::Refusal::kMemory);
    EXPECT_EQ(refused.activation_bytes, 2'000'000);
    EXPECT_EQ(refused.retry_after, absl::ZeroDuration());
    EXPECT_THAT(refused.message, HasSubstr("smaller width or height"));
  }
  // One of the devices has the room.
  limits.memory_bytes = 3'000'000;
  bench.AddDevice(limits);
  EXPECT_EQ(bench.Admit({'b', kStandard, kLarge}).refusal, Admission::Refusal::kNone);
}

// Of a small image the texts and workspaces that every step has are most: scaled up they are more than a large one
// needs.
TEST(AdmissionTest, WhatWasNeverSeenIsLetIn) {
  DeviceLimits limits;
  limits.memory_bytes = 1'000'000;
  Bench bench("deadline-fair", limits);
  bench.costs()->RecordMemory(bench.costs()->Curve("m", kSmall), 1, 900'000);
  EXPECT_EQ(bench.Admit({'a', kStandard, kLarge}).refusal, Admission::Refusal::kNone);
}

TEST(BatchTest, ActivationsOfAStepStayWithinTheDevice) {
  DeviceLimits limits;
  limits.activation_bytes = 1'600'000;
  Bench bench("deadline-fair", limits);
  bench.costs()->RecordMemory(bench.costs()->Curve("m", kSmall), 1, 500'000);
  for (const Asked& asked : Same(6, {})) bench.Add(asked);
  EXPECT_EQ(bench.Decide(), "abc");
}

TEST(PolicyNameTest, AnUnknownOneIsRefusedWithThoseThatAre) {
  CostModel costs;
  CoreOptions options;
  options.policy = "lifo";
  const auto core = SchedulingCore::Create(options, &costs);
  EXPECT_EQ(core.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(core.status().message()), HasSubstr("fifo, dynamic, deadline-fair"));
}

TEST(WaitCorrectionTest, IsWhatWaitsWereOverWhatTheyWerePredicted) {
  WaitCorrection waits;
  EXPECT_EQ(waits.Factor(kStandard), 1);
  for (int i = 0; i < 1000; ++i) waits.Record(kStandard, absl::Seconds(8), absl::Seconds(2));
  EXPECT_NEAR(waits.Factor(kStandard), 0.25, 0.001);
  EXPECT_EQ(waits.Factor(kInteractive), 1);  // each class has its own
  // Who finds a free device, as was predicted, says nothing of the others.
  for (int i = 0; i < 1000; ++i) waits.Record(kStandard, absl::ZeroDuration(), absl::ZeroDuration());
  EXPECT_NEAR(waits.Factor(kStandard), 0.25, 0.001);
  // The newest count.
  for (int i = 0; i < 1000; ++i) waits.Record(kStandard, absl::Seconds(2), absl::Seconds(4));
  EXPECT_NEAR(waits.Factor(kStandard), 2, 0.01);
  // Not beyond reason.
  for (int i = 0; i < 1000; ++i) waits.Record(kBatch, absl::Seconds(1), absl::ZeroDuration());
  EXPECT_GT(waits.Factor(kBatch), 0);
  for (int i = 0; i < 1000; ++i) waits.Record(kBatch, absl::ZeroDuration(), absl::Hours(1));
  EXPECT_LT(waits.Factor(kBatch), 10);
}

TEST(LostDeviceTest, WhatItHadGoesToOthersAndNothingIsPlacedOnIt) {
  Bench bench("deadline-fair");
  bench.Add({'a', kStandard, kSmall, 5});
  bench.Add({'b', kStandard, kSmall, 5});
  EXPECT_EQ(bench.Decide(0), "ab");
  bench.Step(absl::Milliseconds(100), 0);
  EXPECT_EQ(bench.Decide(0), "ab");
  bench.AddDevice();
  bench.Displace('a', 4);
  bench.Displace('b', 5);
  bench.RemoveDevice(0);
  bench.Add({'c', kStandard, kSmall, 5});
  EXPECT_EQ(bench.core()->index().devices(0), 1);  // that have the model
  EXPECT_EQ(bench.core()->index().idle_devices(0), 1);
  EXPECT_EQ(bench.core()->index().live_devices(), 1);
  std::string first = bench.Decide(1);
  std::sort(first.begin(), first.end());
  EXPECT_EQ(first, "abc");
  std::string done;
  for (int step = 0; step < 4; ++step) {
    done += bench.Step(absl::Milliseconds(100), 1);
    bench.Decide(1);
  }
  EXPECT_EQ(done, "a");  // which had a step less to go than b
}

TEST(LostDeviceTest, ARequestFindsNoDevice) {
  Bench bench("deadline-fair");
  bench.RemoveDevice(0);
  EXPECT_NE(bench.Admit({'a'}).refusal, Admission::Refusal::kNone);
}

TEST(LostDeviceTest, AnImageThatIsDoneButNotDecodedCanGoBackAStep) {
  CostModel costs;
  const auto core = SchedulingCore::Create({}, &costs);
  const ModelId model = (*core)->Model("m");
  for (int i = 0; i < 2; ++i) (*core)->SetLoaded((*core)->AddDevice({}), model, true);
  RequestedJobs request;
  request.model = model;
  request.images = {{"key", kSmall, 1, 2, 10}};
  const absl::Time now = absl::UnixEpoch();
  const JobId job = (*core)->Add(request, now).front();
  const std::vector<Forward> forwards = {{{job}, absl::Seconds(1)}};
  std::vector<JobId> done;
  for (int step = 0; step < 2; ++step) {
    EXPECT_THAT((*core)->Decide(0, now).batch, ::testing::ElementsAre(job));
    done = (*core)->StepDone(0, forwards, SchedulingCore::DoneJobs::kKeep);
  }
  EXPECT_THAT(done, ::testing::ElementsAre(job));
  EXPECT_TRUE((*core)->index().Contains(job));
  EXPECT_TRUE((*core)->Decide(0, now).batch.empty());  // it is on no device
  (*core)->Displace(job, 1, now);
  (*core)->RemoveDevice(0);
  EXPECT_THAT((*core)->Decide(1, now).batch, ::testing::ElementsAre(job));
  EXPECT_THAT((*core)->StepDone(1, forwards), ::testing::ElementsAre(job));
  EXPECT_EQ((*core)->index().unfinished(), 0);
}

}  // namespace
}  // namespace fresco
