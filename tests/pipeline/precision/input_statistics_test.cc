#include "pipeline/precision/input_statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace fresco {
namespace {

// Heavy-tailed, as activations are.
std::vector<float> Values(size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::student_t_distribution<float> heavy(3);
  std::vector<float> values(n);
  for (float& value : values) value = heavy(generator);
  return values;
}

ActivationRange RangeOf(const std::vector<float>& values) {
  InputStatistics statistics;
  statistics.Add(values);
  return statistics.Range();
}

TEST(InputStatisticsTest, MinAndMaxAreExact) {
  const ActivationRange range = RangeOf({0.5F, -3.25F, 2, 0});
  EXPECT_EQ(range.count, 4);
  EXPECT_EQ(range.min, -3.25F);
  EXPECT_EQ(range.max, 2);
  EXPECT_EQ(range.absmax(), 3.25F);
}

TEST(InputStatisticsTest, PercentilesAreThoseOfTheSortedMagnitudes) {
  const std::vector<float> values = Values(50000, 1);
  std::vector<float> sorted;
  for (const float value : values) sorted.push_back(std::abs(value));
  std::sort(sorted.begin(), sorted.end());
  const ActivationRange range = RangeOf(values);
  const std::vector<size_t> ranks = {49500, 49950, 49995};  // of 99, 99.9, 99.99 %
  for (size_t i = 0; i < ranks.size(); ++i) {
    const float exact = sorted[ranks[i] - 1];
    EXPECT_GE(range.percentiles[i], exact);
    EXPECT_LE(range.percentiles[i], exact * (1 + 1.0F / 32)) << kPercentiles[i];
  }
}

TEST(InputStatisticsTest, PartsAddUpToTheWhole) {
  const std::vector<float> first = Values(1000, 2), second = Values(3000, 3);
  std::vector<float> all = first;
  all.insert(all.end(), second.begin(), second.end());
  InputStatistics a, b;
  a.Add(first);
  b.Add(second);
  b.Add(a);
  b.Add(InputStatistics());
  EXPECT_EQ(b.Range(), RangeOf(all));
  EXPECT_EQ(InputStatistics::FromCounts(b.counts()).Range(), RangeOf(all));
}

TEST(InputStatisticsTest, ExtremesFallIntoTheLastBinsAndNanCountsAsZero) {
  constexpr float kHuge = 1e30F, kTiny = 1e-30F;
  const ActivationRange huge = RangeOf({kHuge, -kHuge, kTiny, 0});
  EXPECT_EQ(huge.percentiles[0], kHuge);
  const ActivationRange nan = RangeOf({std::numeric_limits<float>::quiet_NaN(), 1});
  EXPECT_EQ(nan.min, 0);
  EXPECT_EQ(nan.max, 1);
  EXPECT_EQ(RangeOf({}), ActivationRange());
  const ActivationRange zero = RangeOf({0, 0, 0});
  EXPECT_EQ(zero.percentiles[2], 0);
}

TEST(ChannelStatisticsTest, ChannelsKeepTheirLargestMagnitudeAndMean) {
  ChannelStatistics first(3), second(3);
  first.Add(std::vector<float>{1, -2, 0});
  second.Add(std::vector<float>{-3, 1, std::numeric_limits<float>::quiet_NaN()});
  first.Add(second);
  EXPECT_EQ(first.rows, 2);
  EXPECT_THAT(first.absmax, ::testing::ElementsAre(3, 2, 0));
  EXPECT_THAT(first.Mean(), ::testing::ElementsAre(-1, -0.5F, 0));
}

}  // namespace
}  // namespace fresco
