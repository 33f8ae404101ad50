#include "server/scheduler/policy/fair_share.h"

#include <gtest/gtest.h>

#include <array>

namespace fresco {
namespace {

// Serves whoever has had least, as a queue without deadlines would, and returns what each got.
std::array<double, 2> Serve(FairShare* shares, const std::array<TenantId, 2>& tenants, int turns) {
  std::array<double, 2> got = {};
  for (int i = 0; i < turns; ++i) {
    const int next = shares->served(tenants[0]) <= shares->served(tenants[1]) ? 0 : 1;
    shares->Charge(tenants[next], 1);
    got[next] += 1;
  }
  return got;
}

TEST(FairShareTest, SharesByWeight) {
  FairShare shares;
  const std::array<TenantId, 2> tenants = {shares.Tenant("a", 1), shares.Tenant("b", 3)};
  for (TenantId tenant : tenants) shares.SetBacklogged(tenant, true);
  const auto got = Serve(&shares, tenants, 4000);
  EXPECT_NEAR(got[0], 1000, 2);
  EXPECT_NEAR(got[1], 3000, 2);
}

TEST(FairShareTest, ATenantSavesNothingUpWhileItIsAway) {
  FairShare shares;
  const std::array<TenantId, 2> tenants = {shares.Tenant("busy", 1), shares.Tenant("away", 1)};
  shares.SetBacklogged(tenants[0], true);
  for (int i = 0; i < 1000; ++i) shares.Charge(tenants[0], 1);
  shares.Join(tenants[1]);
  shares.SetBacklogged(tenants[1], true);
  const auto got = Serve(&shares, tenants, 100);
  EXPECT_NEAR(got[0], 50, 1);
  EXPECT_NEAR(got[1], 50, 1);
}

TEST(FairShareTest, NorDoesItPayForWhatNobodyElseWanted) {
  FairShare shares;
  const std::array<TenantId, 2> tenants = {shares.Tenant("busy", 1), shares.Tenant("new", 1)};
  shares.SetBacklogged(tenants[0], true);
  for (int i = 0; i < 1000; ++i) shares.Charge(tenants[0], 1);
  shares.SetBacklogged(tenants[0], false);  // nobody waits
  shares.Join(tenants[1]);
  shares.SetBacklogged(tenants[1], true);
  shares.SetBacklogged(tenants[0], true);
  EXPECT_EQ(shares.served(tenants[0]), shares.served(tenants[1]));
}

TEST(FairShareTest, BeyondItsShareOnlyPastTheAllowanceAndUntilOthersCatchUp) {
  FairShare shares;
  shares.SetAllowance(10);
  const TenantId greedy = shares.Tenant("greedy", 1);
  const TenantId modest = shares.Tenant("modest", 1);
  shares.SetBacklogged(greedy, true);
  shares.SetBacklogged(modest, true);
  shares.Charge(greedy, 9);
  EXPECT_FALSE(shares.beyond(greedy));
  shares.Charge(greedy, 2);
  EXPECT_TRUE(shares.beyond(greedy));
  EXPECT_EQ(shares.TakeChanged(), std::vector<TenantId>{greedy});
  shares.Charge(modest, 2);
  EXPECT_FALSE(shares.beyond(greedy));
  EXPECT_EQ(shares.TakeChanged(), std::vector<TenantId>{greedy});
}

TEST(FairShareTest, WhoRanAllTheWhileIsStillBehindWhenSomethingOfItWaitsAgain) {
  FairShare shares;
  shares.SetAllowance(10);
  const TenantId greedy = shares.Tenant("greedy", 1);
  const TenantId modest = shares.Tenant("modest", 1);
  shares.SetBacklogged(greedy, true);
  shares.SetBacklogged(modest, true);
  shares.SetBacklogged(modest, false);  // all of it runs
  shares.Charge(greedy, 100);
  EXPECT_FALSE(shares.beyond(greedy));  // nobody else waits
  shares.Charge(modest, 1);
  shares.SetBacklogged(modest, true);
  EXPECT_TRUE(shares.beyond(greedy));
  EXPECT_EQ(shares.TakeChanged(), std::vector<TenantId>{greedy});
}

TEST(FairShareTest, ForgetsOnlyWhereNothingIsLost) {
  FairShare shares;
  const TenantId a = shares.Tenant("a", 1);
  const TenantId b = shares.Tenant("b", 1);
  shares.SetBacklogged(b, true);
  shares.Charge(a, 5);
  EXPECT_FALSE(shares.Forgettable(a));  // it is ahead
  shares.Charge(b, 6);
  EXPECT_TRUE(shares.Forgettable(a));
  EXPECT_FALSE(shares.Forgettable(b));  // something of it waits
  shares.Forget(a);
  EXPECT_EQ(shares.Tenant("c", 1), a);  // its number is free
}

}  // namespace
}  // namespace fresco
