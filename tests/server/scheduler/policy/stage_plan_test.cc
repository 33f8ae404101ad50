// What is prepared and decoded between two steps.
#include "server/scheduler/policy/stage_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <random>
#include <set>
#include <string>
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
double Seconds(const StagePlan& plan) {
  const double texts = plan.prepare.empty() ? 0 : 1 + 2 * static_cast<double>(plan.prepare.size());
  return 3 * static_cast<double>(plan.decode.size()) + texts;
}

TEST(PlanStagesTest, TakesTheMostUrgentAsLongAsTheyFit) {
  const std::vector<StageItem> items = {Item(1, true, 30), Item(2, false, 20), Item(3, false, 10), Item(4, true, 40)};
  EXPECT_THAT(PlanStages(items, 5, Seconds).prepare, ElementsAre(3, 2));  // 1 + 2 * 2
  EXPECT_THAT(PlanStages(items, 5, Seconds).decode, IsEmpty());
  EXPECT_THAT(PlanStages(items, 4.9, Seconds).prepare, ElementsAre(3));
  EXPECT_THAT(PlanStages(items, 8, Seconds).decode, ElementsAre(1));
  EXPECT_THAT(PlanStages(items, 100, Seconds).decode, ElementsAre(1, 4));
}

TEST(PlanStagesTest, OneIsDoneHoweverLongItTakes) {
  EXPECT_THAT(PlanStages({Item(1, true, 30), Item(2, true, 20)}, 0, Seconds).decode, ElementsAre(2));
  EXPECT_THAT(PlanStages({Item(1, false, 30)}, 0, Seconds).prepare, ElementsAre(1));
}

TEST(PlanStagesTest, NothingPassesOneThatDoesNotFit) {
  const auto seconds = [](const StagePlan& plan) { return plan.prepare.size() + 10.0 * plan.decode.size(); };
  const StagePlan plan = PlanStages({Item(1, false, 1), Item(2, true, 2), Item(3, false, 3)}, 5, seconds);
  EXPECT_THAT(plan.prepare, ElementsAre(1));
  EXPECT_THAT(plan.decode, IsEmpty());
}

TEST(PlanStagesTest, AmongEqualsWhoCameFirst) {
  EXPECT_THAT(PlanStages({Item(7, true, 1), Item(5, true, 1), Item(6, true, 1)}, 6, Seconds).decode, ElementsAre(5, 6));
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

  JobId Add(int steps, PriorityClass priority = PriorityClass::kStandard,
            absl::Time deadline = absl::InfiniteFuture()) {
    RequestedJobs request;
    request.deadline = deadline;
    request.tenant = "t";
    request.priority = priority;
    request.model = core_->Model("m");
    request.sequence = sequence_++;
    request.images = {{"key", kTokens, 1, steps, /*state_bytes=*/10, kTextTokens, kPictureTokens}};
    return core_->Add(request, now_).front();
  }

  Decision Decide() {
    return core_->Decide(0, now_, [&](absl::Span<const JobId> images) { return static_cast<int>(images.size()); });
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
  EXPECT_THAT(core_->Decide(0, now_, [](absl::Span<const JobId>) { return 0; }).start, ElementsAre(a, b, c));
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
        // Nothing to do but for the decoder, or it is behind.
        const bool behind = core_->finished(0).size() > 4;
        ASSERT_TRUE(!next.batch.empty() || behind || here.size() == left.size()) << "idle beside work";
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
    core_->RecordDecode(core_->Model("m"), kPictureTokens, absl::Seconds(2));
    core_->RecordTexts(core_->Model("m"), kTextTokens, 1, absl::Seconds(3));
  }
  EXPECT_NEAR(DecodeSeconds(costs_, DecodeCurve(&costs_, "m", kPictureTokens)), 2, 0.01);
  EXPECT_NEAR(TextSeconds(costs_, TextCurve(&costs_, "m", kTextTokens), 1), 3, 0.01);
  EXPECT_EQ(TextSeconds(costs_, TextCurve(&costs_, "m", kTextTokens), 0), 0);
}

}  // namespace
}  // namespace fresco
