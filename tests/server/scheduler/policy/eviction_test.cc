#include "server/scheduler/policy/eviction.h"

#include "gmock/gmock.h"

namespace fresco {
namespace {

using Kind = EvictionPlan::Kind;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

absl::Time At(int second) {
  return absl::UnixEpoch() + absl::Seconds(second);
}

ResidentModel Resident(const std::string& name, int64_t bytes, int last_used) {
  ResidentModel model;
  model.name = name;
  model.bytes = bytes;
  model.last_used = At(last_used);
  return model;
}

TEST(EvictionTest, WhatFitsEvictsNobody) {
  const EvictionPlan plan = PlanEviction({Resident("a", 6, 1)}, 10, 4);
  EXPECT_EQ(plan.kind, Kind::kFits);
  EXPECT_THAT(plan.victims, IsEmpty());
}

TEST(EvictionTest, TheLeastRecentlyUsedGoesFirst) {
  const EvictionPlan plan = PlanEviction({Resident("a", 3, 2), Resident("b", 3, 1), Resident("c", 3, 3)}, 10, 2);
  EXPECT_EQ(plan.kind, Kind::kEvict);
  EXPECT_THAT(plan.victims, ElementsAre("b"));
}

TEST(EvictionTest, AModelThatWasNeverUsedGoesBeforeAllThatWere) {
  ResidentModel fresh = Resident("fresh", 3, 0);
  fresh.last_used = absl::InfinitePast();
  EXPECT_THAT(PlanEviction({Resident("a", 3, 1), fresh}, 6, 1).victims, ElementsAre("fresh"));
}

TEST(EvictionTest, AsManyGoAsItTakesInOrderOfUse) {
  const EvictionPlan plan =
      PlanEviction({Resident("a", 2, 3), Resident("b", 2, 1), Resident("c", 2, 2), Resident("d", 2, 4)}, 8, 4);
  EXPECT_THAT(plan.victims, ElementsAre("b", "c"));
}

TEST(EvictionTest, OneThatALargerOneMakesNeedlessStays) {
  EXPECT_THAT(PlanEviction({Resident("small", 1, 1), Resident("large", 8, 2)}, 9, 8).victims, ElementsAre("large"));
}

TEST(EvictionTest, BusyAndPinnedModelsStay) {
  ResidentModel busy = Resident("busy", 4, 1);
  busy.busy = true;
  ResidentModel pinned = Resident("pinned", 4, 2);
  pinned.pinned = true;
  EXPECT_THAT(PlanEviction({busy, pinned, Resident("idle", 2, 3)}, 10, 2).victims, ElementsAre("idle"));
  const EvictionPlan plan = PlanEviction({busy, pinned, Resident("idle", 2, 3)}, 10, 3);
  EXPECT_EQ(plan.kind, Kind::kImpossible);
  EXPECT_THAT(plan.victims, IsEmpty());  // idle would go for nothing
}

TEST(EvictionTest, WhatIsLeavingIsWaitedForFirst) {
  ResidentModel leaving = Resident("leaving", 4, 9);
  leaving.leaving = true;
  EXPECT_EQ(PlanEviction({leaving, Resident("idle", 4, 1)}, 8, 4).kind, Kind::kWait);
  const EvictionPlan plan = PlanEviction({leaving, Resident("idle", 4, 1)}, 8, 6);
  EXPECT_EQ(plan.kind, Kind::kEvict);
  EXPECT_THAT(plan.victims, ElementsAre("idle"));
}

TEST(EvictionTest, WhatIsLargerThanTheBudgetNeverFits) {
  EXPECT_EQ(PlanEviction({}, 10, 11).kind, Kind::kImpossible);
  EXPECT_EQ(PlanEviction({}, 10, 10).kind, Kind::kFits);
}

TEST(EvictionTest, ThePersonIsToldWhatTakesTheMemory) {
  ResidentModel busy = Resident("a", int64_t{3} << 30, 1);
  busy.busy = true;
  ResidentModel pinned = Resident("b", 512 << 20, 1);
  pinned.pinned = true;
  EXPECT_EQ(DescribeBudget({busy, pinned}, int64_t{4} << 30),
            "3.5 GiB of 4.0 GiB are taken: a 3.0 GiB (busy), b 512 MiB (pinned)");
}

}  // namespace
}  // namespace fresco
