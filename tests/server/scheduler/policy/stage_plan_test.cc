// What is prepared and decoded between two steps.
#include "server/scheduler/policy/stage_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "server/scheduler/policy/scheduling_core.h"
#include "server/scheduler/policy/stage_times.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const absl::Time kStart = absl::FromUnixSeconds(1'000'000);

StageItem Item(JobId id, bool decode, double latest) {
  return {id, decode, kStart + absl::Seconds(latest), /*sequence=*/id, 0};
}

// A decode takes 3 s, texts 1 s and 2 s for each.
StagePlan Plan(const std::vector<StageItem>& items, double budget) {
  bool texts = false;
  return PlanStages(items, budget, [&](const StageItem& item) -> double {
    if (item.decode) return 3;
    return std::exchange(texts, true) ? 2 : 1 + 2;
  });
}

TEST(PlanStagesTest, TakesTheMostUrgentAsLongAsTheyFit) {
  const std::vector<StageItem> items = {Item(1, true, 30), Item(2, false, 20), Item(3, false, 10), Item(4, true, 40)};
  EXPECT_THAT(Plan(items, 5).prepare, ElementsAre(3, 2));  // 1 + 2 * 2
  EXPECT_THAT(Plan(items, 5).decode, IsEmpty());
  EXPECT_THAT(Plan(items, 4.9).prepare, ElementsAre(3));
  EXPECT_THAT(Plan(items, 8).decode, ElementsAre(1));
  EXPECT_THAT(Plan(items, 100).decode, ElementsAre(1, 4));
}

TEST(PlanStagesTest, OneIsDoneHoweverLongItTakes) {
  EXPECT_THAT(Plan({Item(1, true, 30), Item(2, true, 20)}, 0).decode, ElementsAre(2));
  EXPECT_THAT(Plan({Item(1, false, 30)}, 0).prepare, ElementsAre(1));
}

TEST(PlanStagesTest, NothingPassesOneThatDoesNotFit) {
  const auto seconds = [](const StageItem& item) { return item.decode ? 10.0 : 1.0; };
  const StagePlan plan = PlanStages({Item(1, false, 1), Item(2, true, 2), Item(3, false, 3)}, 5, seconds);
  EXPECT_THAT(plan.prepare, ElementsAre(1));
  EXPECT_THAT(plan.decode, IsEmpty());
}

TEST(PlanStagesTest, AmongEqualsWhoCameFirst) {
  EXPECT_THAT(Plan({Item(7, true, 1), Item(5, true, 1), Item(6, true, 1)}, 6).decode, ElementsAre(5, 6));
}

TEST(NextDecodesTest, TakesTheMostUrgentForWhichThereIsRoom) {
  CostModel costs;
  const auto finished = [&](JobId id, double due) {
    FinishedImage image;
    image.id = id;
    image.spec.sequence = id;
    image.spec.due = kStart + absl::Seconds(due);
    image.spec.decode_curve = DecodeCurve(&costs, "model", 100);
    return image;
  };
  const std::vector<FinishedImage> images = {finished(1, 30), finished(2, 10), finished(3, 20)};
  EXPECT_THAT(NextDecodes(costs, images, /*by_due=*/true, 2), ElementsAre(2, 3));
  EXPECT_THAT(NextDecodes(costs, images, /*by_due=*/false, 2), ElementsAre(1, 2));
  EXPECT_THAT(NextDecodes(costs, images, true, 9), ElementsAre(2, 3, 1));
  EXPECT_THAT(NextDecodes(costs, images, true, 0), IsEmpty());
}

// A device that draws images of one size, each of one text: a step takes 10 s, a text 4 s, a decode 6 s.
class StagedCore : public ::testing::Test {
 protected:
  static constexpr int kTokens = 100, kTextTokens = 20, kPictureTokens = 80;

  void Make(const std::string& policy = "deadline-fair", int64_t state_bytes = 1 << 30, int decoding = 0,
            int max_batch = DeviceLimits().max_batch) {
    for (int rows = 1; rows <= 16; ++rows) {
      costs_.RecordStep(costs_.Curve("m", kTokens), rows, absl::Seconds(10.5));
      costs_.RecordStep(TextCurve(&costs_, "m", kTextTokens), rows, rows * absl::Seconds(4));
    }
    costs_.RecordStep(DecodeCurve(&costs_, "m", kPictureTokens), 1, absl::Seconds(6));
    options_.policy = policy;
    core_ = *SchedulingCore::Create(options_, &costs_);
    DeviceLimits limits;
    limits.state_bytes = state_bytes;
    limits.decoding = decoding;
    limits.max_batch = max_batch;
    core_->SetLoaded(core_->AddDevice(limits), core_->Model("m"), true);
  }

  JobId Add(int steps, PriorityClass priority = PriorityClass::kStandard, absl::Time deadline = absl::InfiniteFuture(),
            const char* key = "key") {
    RequestedJobs request;
    request.deadline = deadline;
    request.tenant = "t";
    request.priority = priority;
    request.model = core_->Model("m");
    request.sequence = sequence_++;
    request.images = {{key, kTokens, 1, steps, /*state_bytes=*/10, kTextTokens, kPictureTokens}};
    return core_->Add(request, now_).front();
  }

  Decision Decide() {
    return core_->Decide(0, now_, [&](absl::Span<const JobId> images) { return std::vector<int>(images.size(), 1); });
  }

  void Step() {
    now_ += absl::Seconds(10);
    core_->StepDone(0, absl::Seconds(10), SchedulingCore::DoneJobs::kKeep);
  }

  CoreOptions options_;
  CostModel costs_;
  std::unique_ptr<SchedulingCore> core_;
  absl::Time now_ = kStart;
  int64_t sequence_ = 0;
};

TEST_F(StagedCore, WhereNothingRunsAllArePrepared) {
  Make();
  const JobId a = Add(9), b = Add(9), c = Add(9), d = Add(9);
  EXPECT_THAT(Decide().start, ElementsAre(a, b, c, d));
}

TEST_F(StagedCore, ARunningBatchWaitsForTwoTextsNotForFour) {
  Make();
  const JobId running = Add(9);
  Decide();
  Step();
  const JobId a = Add(9), b = Add(9), c = Add(9), d = Add(9);
  const Decision first = Decide();
  EXPECT_THAT(first.start, ElementsAre(a, b));
  EXPECT_THAT(first.batch, ElementsAre(running, a, b));
  EXPECT_EQ(core_->index().waiting(), 2);
  Step();
  const Decision second = Decide();
  EXPECT_THAT(second.start, ElementsAre(c, d));
  EXPECT_THAT(second.batch, ElementsAre(running, a, b, c, d));
}

TEST_F(StagedCore, TextsThatAreInTheCacheHoldUpNobody) {
  Make();
  Add(9);
  Decide();
  Step();
  const JobId a = Add(9), b = Add(9), c = Add(9);
  EXPECT_THAT(
      core_->Decide(0, now_, [](absl::Span<const JobId> images) { return std::vector<int>(images.size(), 0); }).start,
      ElementsAre(a, b, c));
}

TEST_F(StagedCore, DecodesAndTextsShareAStep) {
  Make();
  const JobId running = Add(9), one = Add(1), two = Add(1);
  Decide();
  Step();
  const JobId fresh = Add(2);
  // 6 s each: those that are nearest to their targets first.
  const Decision first = Decide();
  EXPECT_THAT(first.decode, ElementsAre(one));
  EXPECT_THAT(first.start, ElementsAre());
  EXPECT_THAT(first.batch, ElementsAre(running));
  Step();
  const Decision second = Decide();
  EXPECT_THAT(second.decode, ElementsAre(two));
  EXPECT_THAT(second.start, ElementsAre(fresh));
  EXPECT_THAT(core_->finished(0), IsEmpty());
}

TEST_F(StagedCore, TheMostUrgentIsDecodedFirst) {
  Make();
  const JobId batch = Add(1, PriorityClass::kBatch), standard = Add(1),
              interactive = Add(1, PriorityClass::kInteractive);
  Add(9);
  Decide();
  Step();
  EXPECT_THAT(Decide().decode, ElementsAre(interactive));
  Step();
  EXPECT_THAT(Decide().decode, ElementsAre(standard));
  Step();
  EXPECT_THAT(Decide().decode, ElementsAre(batch));
}

TEST_F(StagedCore, ByOrderOfArrivalUnderFifo) {
  Make("fifo");
  const JobId batch = Add(1, PriorityClass::kBatch), interactive = Add(1, PriorityClass::kInteractive);
  Add(9);
  Decide();
  Step();
  EXPECT_THAT(Decide().decode, ElementsAre(batch));
  Step();
  EXPECT_THAT(Decide().decode, ElementsAre(interactive));
}

TEST_F(StagedCore, WithoutAStepToHoldUpTheyAreDecodedOneByOne) {
  Make();
  const JobId one = Add(1), two = Add(1);
  Decide();
  Step();
  const Decision first = Decide();
  EXPECT_THAT(first.decode, ElementsAre(one));
  EXPECT_THAT(first.batch, IsEmpty());
  EXPECT_THAT(Decide().decode, ElementsAre(two));
  EXPECT_THAT(Decide().decode, IsEmpty());
}

TEST_F(StagedCore, FinishedImagesCountInTheDevicesMemory) {
  Make("deadline-fair", /*state_bytes=*/20);  // of two images
  const JobId running = Add(9), one = Add(1);
  Decide();
  Step();
  const JobId other = Add(9);
  EXPECT_EQ(core_->index().device(0).finished_bytes, 10);
  // There is time for its text, but no room before the first has left.
  const Decision first = Decide();
  EXPECT_THAT(first.decode, ElementsAre(one));
  EXPECT_THAT(first.batch, ElementsAre(running));
  EXPECT_EQ(core_->index().device(0).finished_bytes, 0);
  Step();
  EXPECT_THAT(Decide().start, ElementsAre(other));
}

// Eight images that share their only step take 10 s for it and 48 s to be decoded.
TEST_F(StagedCore, ImagesThatAreDoneDoNotPileUpBehindOnesThatStart) {
  for (const char* policy : {"fifo", "deadline-fair"}) {
    Make(policy, /*state_bytes=*/160);  // of sixteen
    for (int i = 0; i < 80; ++i) Add(1);
    int steps = 0;
    for (int decoded = 0; decoded < 80;) {
      const Decision next = Decide();
      ASSERT_FALSE(next.decode.empty() && next.batch.empty()) << policy;
      for (JobId id : next.decode) core_->Remove(id);
      decoded += static_cast<int>(next.decode.size());
      if (next.batch.empty()) continue;
      Step();
      ++steps;
      ASSERT_LE(core_->finished(0).size(), 15u) << policy;
    }
    EXPECT_EQ(steps, 10) << policy;  // of full batches
    EXPECT_EQ(core_->index().unfinished(), 0);
  }
}

// Random arrivals and cancellations, as the service has them decided.
TEST_F(StagedCore, NothingIsLostOrDoneTwiceAndBudgetsHoldWhateverComes) {
  constexpr int kBusy = 300;  // boundaries
  for (const char* policy : {"fifo", "dynamic", "deadline-fair"}) {
    for (uint64_t seed = 1; seed <= 10; ++seed) {
      SCOPED_TRACE(testing::Message() << policy << " " << seed);
      Make(policy, /*state_bytes=*/160);
      std::mt19937_64 random(seed);
      std::set<JobId> left, here;  // here: on the device
      for (int boundary = 0; boundary < kBusy || !left.empty(); ++boundary) {
        ASSERT_LT(boundary, 100 * kBusy) << "it does not end";
        for (uint64_t i = boundary < kBusy ? random() % 3 : 0; i > 0; --i) {
          left.insert(Add(1 + static_cast<int>(random() % 5), static_cast<PriorityClass>(random() % kPriorityClasses)));
        }
        if (!left.empty() && random() % 7 == 0) {
          const JobId victim = *std::next(left.begin(), static_cast<std::ptrdiff_t>(random() % left.size()));
          core_->Remove(victim);
          left.erase(victim);
          here.erase(victim);
        }
        const Decision next = Decide();
        ASSERT_EQ(next.decode.empty() && next.batch.empty(), left.empty()) << "idle beside work";
        for (JobId id : next.decode) {
          ASSERT_EQ(here.erase(id), 1u);
          ASSERT_EQ(left.erase(id), 1u);
          core_->Remove(id);
        }
        for (JobId id : next.preempt) ASSERT_EQ(here.erase(id), 1u);
        for (JobId id : next.start) ASSERT_TRUE(left.contains(id) && here.insert(id).second);
        for (JobId id : next.batch) ASSERT_TRUE(here.contains(id));
        ASSERT_LE(here.size(), 16u);
        for (JobId id : next.preempt) core_->Parked(id, now_);
        if (!next.batch.empty()) Step();
      }
      EXPECT_EQ(core_->index().unfinished(), 0);
    }
  }
}

TEST_F(StagedCore, BesideTheStepsTheDecoderGetsTheMostUrgentAndNoStepWaits) {
  Make("deadline-fair", 1 << 30, /*decoding=*/1);
  const JobId batch = Add(1, PriorityClass::kBatch), interactive = Add(1, PriorityClass::kInteractive),
              running = Add(9);
  Decide();
  Step();
  const JobId a = Add(9), b = Add(9);
  const Decision first = Decide();
  EXPECT_THAT(first.decode, ElementsAre(interactive));
  EXPECT_THAT(first.batch, ElementsAre(running, a, b));  // two texts, though a decode takes as long as another
  EXPECT_EQ(core_->index().device(0).finished, 2);
  Step();
  EXPECT_THAT(Decide().decode, IsEmpty());
  core_->Remove(interactive);  // it is decoded
  EXPECT_THAT(Decide().decode, ElementsAre(batch));
}

// Each is more urgent than those before it, so that all have a step to go.
TEST_F(StagedCore, NoStepIsMadeWhileTheDecoderIsTwoBatchesBehind) {
  for (ClassOptions& of_class : options_.classes) of_class.target = absl::Hours(1);  // deadlines decide
  Make("deadline-fair", 1 << 30, /*decoding=*/1, /*max_batch=*/1);
  for (int i = 0; i < 6; ++i) {
    Add(2, PriorityClass::kStandard, now_ + absl::Seconds(1000 - 100 * i));
    ASSERT_THAT(Decide().start, SizeIs(1));
    Step();
  }
  std::vector<JobId> decoding;
  int finished = 0;
  for (Decision next = Decide(); !next.batch.empty(); next = Decide()) {
    decoding.insert(decoding.end(), next.decode.begin(), next.decode.end());
    Step();
    ++finished;
  }
  EXPECT_EQ(finished, 4);  // with the decoder one, and three that wait for it
  EXPECT_THAT(decoding, SizeIs(1));
  core_->Remove(decoding.front());
  const Decision next = Decide();
  EXPECT_THAT(next.decode, SizeIs(1));
  EXPECT_THAT(next.batch, SizeIs(1));
}

// One image that is on the device, paused; and as many as it takes are finished that nothing new starts.
class DecoderBehind : public StagedCore {
 protected:
  void MakeBehind() {
    Make("deadline-fair", 1 << 30, /*decoding=*/1, /*max_batch=*/1);
    patient_ = Add(50, PriorityClass::kBatch, now_ + absl::Hours(20));
    for (int i = 0; i < 3; ++i) {
      Decide();
      Step();
      Add(1, PriorityClass::kInteractive, now_ + absl::Hours(10));
    }
    while (core_->finished(0).size() < 2) {
      Decide();
      Step();
    }
  }
  JobId patient_ = -1;
};

// What is more urgent may not start, and leaves the device to what it has begun.
TEST_F(DecoderBehind, WhatIsOnTheDeviceGoesOn) {
  MakeBehind();
  Add(1, PriorityClass::kInteractive, now_ + absl::Hours(1), "other key");
  const Decision next = Decide();
  EXPECT_THAT(next.start, IsEmpty());
  EXPECT_THAT(next.batch, ElementsAre(patient_));
}

// The same of what has begun and waits in host memory, behind many that have not.
TEST_F(DecoderBehind, WhatHasBegunElsewhereGoesOn) {
  MakeBehind();
  core_->Preempt(patient_);
  core_->Parked(patient_, now_);
  for (int i = 0; i < 30; ++i) {
    for (const char* key : {"key", "other key"}) {
      Add(1, PriorityClass::kInteractive, now_ + absl::Hours(1), key);
    }
  }
  const Decision next = Decide();
  EXPECT_THAT(next.start, ElementsAre(patient_));
  EXPECT_THAT(next.batch, ElementsAre(patient_));
}

// And under the policies that go by arrival: of images that were displaced, the first to arrive.
TEST_F(StagedCore, WhileTheDecoderIsBehindWhatWasDisplacedStartsInItsOrder) {
  for (const char* policy : {"fifo", "dynamic"}) {
    Make(policy, 1 << 30, /*decoding=*/1, /*max_batch=*/1);
    for (int i = 0; i < 3; ++i) Add(1);
    for (int i = 0; i < 3; ++i) {
      ASSERT_THAT(Decide().batch, SizeIs(1)) << policy;
      Step();
    }
    ASSERT_THAT(core_->finished(0), SizeIs(2));
    Add(9);
    const JobId one = Add(9), two = Add(9, PriorityClass::kStandard, absl::InfiniteFuture(), "other key");
    for (JobId job : {two, one}) core_->Displace(job, 5, now_);  // as if another device had been lost
    EXPECT_THAT(Decide().batch, ElementsAre(one)) << policy;
  }
}

// As above, decoded beside the steps: a decode takes from none to five boundaries.
TEST_F(StagedCore, BesideTheStepsToo) {
  constexpr int kBusy = 300;  // boundaries
  for (const char* policy : {"fifo", "dynamic", "deadline-fair"}) {
    for (uint64_t seed = 1; seed <= 10; ++seed) {
      SCOPED_TRACE(testing::Message() << policy << " " << seed);
      Make(policy, /*state_bytes=*/160, /*decoding=*/2, /*max_batch=*/4);
      std::mt19937_64 random(seed);
      std::set<JobId> left, here;
      std::vector<JobId> decoding;
      for (int boundary = 0; boundary < kBusy || !left.empty(); ++boundary) {
        ASSERT_LT(boundary, 100 * kBusy) << "it does not end";
        for (uint64_t i = boundary < kBusy ? random() % 3 : 0; i > 0; --i) {
          left.insert(Add(1 + static_cast<int>(random() % 5), static_cast<PriorityClass>(random() % kPriorityClasses)));
        }
        if (!decoding.empty() && random() % 3 == 0) {
          const JobId drawn = decoding.front();
          decoding.erase(decoding.begin());
          core_->Remove(drawn);
          ASSERT_EQ(left.erase(drawn) + here.erase(drawn), 2u);
        }
        const Decision next = Decide();
        decoding.insert(decoding.end(), next.decode.begin(), next.decode.end());
        ASSERT_LE(decoding.size(), 2u);
        // With the decoder behind nothing new starts; far behind, no step is made.
        const bool behind = core_->finished(0).size() > 4, far_behind = core_->finished(0).size() > 8;
        const bool waits = std::any_of(left.begin(), left.end(), [&](JobId id) {
          const Job& job = core_->index().job(id);
          return job.state == JobState::kWaiting && (!behind || job.steps_left < job.spec.steps);
        });
        const bool could_step = waits || !core_->index().device(0).resident.empty();
        ASSERT_EQ(next.batch.empty(), far_behind || !could_step) << "idle beside work";
        for (JobId id : next.preempt) ASSERT_EQ(here.erase(id), 1u);
        for (JobId id : next.start) ASSERT_TRUE(left.contains(id) && here.insert(id).second);
        for (JobId id : next.batch) ASSERT_TRUE(here.contains(id));
        for (JobId id : next.decode) ASSERT_TRUE(here.contains(id));
        ASSERT_LE(here.size(), 16u);
        for (JobId id : next.preempt) core_->Parked(id, now_);
        if (!next.batch.empty()) Step();
      }
      EXPECT_EQ(core_->index().unfinished(), 0);
    }
  }
}

// Whoever counts texts looks each of them up, while others wait for the dispatcher.
TEST_F(StagedCore, AnImageIsAskedForItsTextsAsOftenHoweverManyStart) {
  for (const int images : {8, 64}) {
    Make();
    DeviceLimits limits;
    limits.max_batch = 100;
    const DeviceId device = core_->AddDevice(limits);
    core_->SetLoaded(device, core_->Model("m"), true);
    core_->RemoveDevice(0);  // which is free, and would get half of them
    size_t asked = 0;
    const auto cached = [&](absl::Span<const JobId> ids) {
      asked += ids.size();
      return std::vector<int>(ids.size(), 0);
    };
    Add(9);
    core_->Decide(device, now_, cached);
    now_ += absl::Seconds(10);
    core_->StepDone(device, absl::Seconds(10));
    for (int i = 0; i < images; ++i) Add(9);
    asked = 0;
    EXPECT_EQ(core_->Decide(device, now_, cached).start.size(), static_cast<size_t>(images));
    EXPECT_LE(asked, 3u * images);  // by itself, with those before it, and for its tenant's account
  }
}

// Three images, of which two have the same text: 8 s.
TEST_F(StagedCore, TextsThatOthersHaveTooHoldUpNobodyTwice) {
  Make();
  Add(9);
  Decide();
  Step();
  const JobId a = Add(9), same = Add(9), b = Add(9);
  const auto texts = [&](absl::Span<const JobId> ids) {
    std::vector<int> added;
    bool seen = false;
    for (JobId id : ids) added.push_back(id == b || !std::exchange(seen, true) ? 1 : 0);
    return added;
  };
  EXPECT_THAT(core_->Decide(0, now_, texts).start, ElementsAre(a, same, b));
}

// One sends images of a step and a new text each, the other images of nine steps, of texts that are known. By steps
// alone the first would have five sixths of the device.
TEST_F(StagedCore, TenantsShareTheDevicesTimeTextsAndDecodesIncluded) {
  constexpr double kStep = 1, kText = 4, kDecode = 6;
  costs_.RecordStep(costs_.Curve("m", kTokens), 1, absl::Seconds(kStep));
  costs_.RecordStep(TextCurve(&costs_, "m", kTextTokens), 1, absl::Seconds(kText));
  costs_.RecordStep(DecodeCurve(&costs_, "m", kPictureTokens), 1, absl::Seconds(kDecode));
  CoreOptions options;
  options.fairness_window = absl::Seconds(20);
  for (ClassOptions& of_class : options.classes) of_class = {absl::Hours(1), 1, absl::Hours(100)};
  core_ = *SchedulingCore::Create(options, &costs_);
  DeviceLimits limits;
  limits.max_batch = 1;
  core_->SetLoaded(core_->AddDevice(limits), core_->Model("m"), true);
  std::map<JobId, std::string> tenants;
  const auto add = [&](const std::string& tenant, int steps) {
    RequestedJobs request;
    request.tenant = tenant;
    request.model = core_->Model("m");
    request.sequence = sequence_++;
    request.images = {{tenant, kTokens, 1, steps, /*state_bytes=*/10, kTextTokens, kPictureTokens}};
    tenants[core_->Add(request, now_).front()] = tenant;
  };
  const auto texts = [&](absl::Span<const JobId> ids) {
    std::vector<int> added;
    for (JobId id : ids) added.push_back(tenants.at(id) == "short" ? 1 : 0);
    return added;
  };
  std::map<std::string, double> used;
  const auto use = [&](JobId id, double seconds) {
    used[tenants.at(id)] += seconds;
    now_ += absl::Seconds(seconds);
  };
  for (int i = 0; i < 2000; ++i) {
    add("short", 1);
    add("long", 9);
  }
  std::set<JobId> begun;
  while (used["short"] + used["long"] < 3000) {
    const Decision next = core_->Decide(0, now_, texts);
    for (JobId id : next.decode) {
      use(id, kDecode);
      core_->Remove(id);
    }
    for (JobId id : next.preempt) core_->Parked(id, now_);
    for (JobId id : next.start) use(id, begun.insert(id).second && tenants.at(id) == "short" ? kText : 0);
    for (JobId id : next.batch) use(id, kStep);
    if (!next.batch.empty()) core_->StepDone(0, absl::Seconds(kStep), SchedulingCore::DoneJobs::kKeep);
  }
  EXPECT_NEAR(used["short"], used["long"], 100);
}

TEST_F(StagedCore, AFinishedImageCanBeCancelled) {
  Make();
  const JobId one = Add(1), two = Add(1);
  Decide();
  Step();
  core_->Remove(one);
  EXPECT_EQ(core_->index().device(0).finished, 1);
  EXPECT_THAT(Decide().decode, ElementsAre(two));
  EXPECT_THAT(Decide().decode, IsEmpty());
}

TEST_F(StagedCore, WhatIsMeasuredIsLearned) {
  Make();
  for (int i = 0; i < 100; ++i) {
    core_->RecordDecode(0, core_->Model("m"), kPictureTokens, absl::Seconds(2));
    core_->RecordTexts(0, core_->Model("m"), kTextTokens, 1, absl::Seconds(3));
  }
  EXPECT_NEAR(DecodeSeconds(costs_, DecodeCurve(&costs_, "m", kPictureTokens)), 2, 0.01);
  EXPECT_NEAR(TextSeconds(costs_, TextCurve(&costs_, "m", kTextTokens), 1), 3, 0.01);
  EXPECT_EQ(TextSeconds(costs_, TextCurve(&costs_, "m", kTextTokens), 0), 0);
}

}  // namespace
}  // namespace fresco
