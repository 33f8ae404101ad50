#include "pipeline/precision/device_counters.h"

#include <gtest/gtest.h>

#include <memory>

namespace fresco {
namespace {

class DeviceCountersTest : public ::testing::Test {
 protected:
  SaturationCount count_;
  DeviceCounters counters_;
  at::Tensor a_ = counters_.Of("a", at::kCPU), b_ = counters_.Of("b", at::kCPU);
};

TEST_F(DeviceCountersTest, WhatHasComeSinceTheLastReadingIsTold) {
  a_.add_(3);
  counters_.Settle(counters_.Read(), &count_);
  a_.add_(1);
  b_.add_(5);
  counters_.Settle(counters_.Read(), &count_);
  EXPECT_EQ(count_.Total().saturated, 9);
  EXPECT_EQ(count_.Worst(1).front().name, "b");
  EXPECT_EQ(count_.Worst(2).back().activations.saturated, 4);
}

TEST_F(DeviceCountersTest, AnOlderReadingTellsNothingTwice) {
  a_.add_(3);
  const at::Tensor before = counters_.Read();
  a_.add_(2);
  const at::Tensor after = counters_.Read();
  for (const at::Tensor& reading : {after, before, after}) counters_.Settle(reading, &count_);
  EXPECT_EQ(count_.Total().saturated, 5);
}

TEST_F(DeviceCountersTest, AReadingFromBeforeALayerCameIsOfTheOthers) {
  a_.add_(1);
  const at::Tensor reading = counters_.Read();
  counters_.Of("c", at::kCPU).add_(7);
  counters_.Settle(reading, &count_);
  EXPECT_EQ(count_.Total().saturated, 1);
}

TEST_F(DeviceCountersTest, ALayerThatIsLoadedAgainGoesOn) {
  a_.add_(1);
  EXPECT_TRUE(counters_.Of("a", at::kCPU).is_same(a_));
}

TEST(DeviceCounters, NothingIsReadWhereThereAreNone) {
  EXPECT_FALSE(DeviceCounters().Read().defined());
}

}  // namespace
}  // namespace fresco
