// Who goes, and who waits, when room is needed.
#include "pipeline/engine/memory_budget.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "pipeline/base/clock.h"

namespace fresco {
namespace {

// A device on which components lie, and what is allocated besides.
class Device {
 public:
  int64_t held() const { return bytes_.load(); }
  void Add(int64_t bytes) { bytes_ += bytes; }
  std::function<int64_t()> meter() {
    return [this] { return held(); };
  }

 private:
  std::atomic<int64_t> bytes_ = 0;
};

class FakeComponent final : public Evictable {
 public:
  FakeComponent(MemoryBudget* budget, Device* device, int64_t bytes)
      : budget_(*budget), device_(*device), bytes_(bytes) {
    device_.Add(bytes);
    budget_.Add(this);
  }
  ~FakeComponent() override { budget_.Remove(this); }

  int64_t evictable_bytes() const override { return there && !used ? bytes_ + kept : 0; }
  int64_t uncounted_bytes() const override { return there ? kept : 0; }
  bool Evict() override {
    if (!there || used) return false;
    there = false;
    device_.Add(-bytes_);
    return true;
  }

  bool there = true, used = false;
  int64_t kept = 0;  // which the device does not count

 private:
  MemoryBudget& budget_;
  Device& device_;
  const int64_t bytes_;
};

class Budget : public ::testing::Test {
 protected:
  SystemClock clock_;
  MemoryBudget budget_{100, &clock_};
  Device device_;
};

TEST_F(Budget, NobodyGoesWhereThereIsRoom) {
  FakeComponent component(&budget_, &device_, 60);
  const auto claim = budget_.MakeRoom(40, device_.meter());
  EXPECT_TRUE(component.there);
  EXPECT_EQ(budget_.evictions(), 0);
}

TEST_F(Budget, WhatTheDeviceDoesNotCountIsHeldToo) {
  FakeComponent graphs(&budget_, &device_, 0), weights(&budget_, &device_, 30);
  graphs.kept = 40;
  { const auto claim = budget_.MakeRoom(30, device_.meter()); }
  EXPECT_TRUE(graphs.there);
  EXPECT_TRUE(weights.there);
  EXPECT_FALSE(budget_.CouldHold(101, device_.meter()));
  EXPECT_TRUE(budget_.CouldHold(100, device_.meter()));
  weights.used = true;
  EXPECT_FALSE(budget_.CouldHold(71, device_.meter()));
  const auto claim = budget_.MakeRoom(31, device_.meter());
  EXPECT_FALSE(graphs.there);
  EXPECT_TRUE(claim.fits());
}

TEST_F(Budget, TheSmallestThatMakesTheRoomGoes) {
  FakeComponent large(&budget_, &device_, 50), small(&budget_, &device_, 10), middle(&budget_, &device_, 30);
  const auto claim = budget_.MakeRoom(35, device_.meter());  // 25 too many
  EXPECT_TRUE(large.there);
  EXPECT_TRUE(small.there);
  EXPECT_FALSE(middle.there);
}

TEST_F(Budget, WhereNoneIsEnoughTheLeastRecentlyUsedGoFirst) {
  FakeComponent first(&budget_, &device_, 30), second(&budget_, &device_, 30), third(&budget_, &device_, 30);
  budget_.CountUse(&first);
  const auto claim = budget_.MakeRoom(60, device_.meter());  // 50 too many: two have to go
  EXPECT_TRUE(first.there);
  EXPECT_FALSE(second.there);
  EXPECT_FALSE(third.there);
}

TEST_F(Budget, WhatIsUsedStaysAndTheBudgetIsOverdrawn) {
  FakeComponent used(&budget_, &device_, 60), idle(&budget_, &device_, 20);
  used.used = true;
  const auto claim = budget_.MakeRoom(50, device_.meter());
  EXPECT_TRUE(used.there);
  EXPECT_FALSE(idle.there);
  EXPECT_EQ(budget_.overdrafts(), 1);
}

TEST_F(Budget, WhoDoesNotFitBesideAnotherWaitsForItsClaim) {
  auto first = std::make_unique<MemoryBudget::Claim>(budget_.MakeRoom(70, device_.meter()));
  std::atomic<bool> got = false;
  std::thread second([&] {
    const auto claim = budget_.MakeRoom(50, device_.meter());
    EXPECT_TRUE(got.exchange(true) == false);
  });
  // 70 and 50 are more than 100.
  std::this_thread::yield();
  EXPECT_FALSE(got.load());
  first.reset();
  second.join();
  EXPECT_TRUE(got.load());
  EXPECT_EQ(budget_.overdrafts(), 0);
}

TEST_F(Budget, AClaimThatShrinksLetsTheNextOneIn) {
  auto first = budget_.MakeRoom(90, device_.meter());
  std::thread second([&] { const auto claim = budget_.MakeRoom(50, device_.meter()); });
  first.Shrink(20);
  second.join();
  EXPECT_EQ(budget_.overdrafts(), 0);
}

// It would wait here for ever.
TEST_F(Budget, NobodyWaitsForAModelThatIsBeingLoaded) {
  const auto loading = budget_.MakeRoom(90, device_.meter(), MemoryBudget::Purpose::kLoading);
  const auto computing = budget_.MakeRoom(50, device_.meter());
  EXPECT_FALSE(computing.fits());
  EXPECT_EQ(budget_.overdrafts(), 1);
}

}  // namespace
}  // namespace fresco
