#include "pipeline/kernels/cpu/softmax_kernel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "tests/pipeline/kernels/cpu/every_target.h"

namespace fresco::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class SoftmaxKernel : public EveryTarget {};
INSTANTIATE_TEST_SUITE_P(Targets, SoftmaxKernel, ::testing::ValuesIn(hwy::SupportedAndGeneratedTargets()), TargetOf);

struct Softmax {
  std::vector<float> weights;
  float sum;
};

Softmax Compute(const std::vector<float>& scores, float scale) {
  // One more, which is not to be written to.
  std::vector<uint16_t> bits(scores.size() + 1, 0x1234);
  const float sum = SoftmaxWeights(scores, scale, bits.data());
  EXPECT_EQ(bits.back(), 0x1234);
  std::vector<float> weights(scores.size());
  std::transform(bits.begin(), bits.end() - 1, weights.begin(), &BFloat16::Load);
  return {weights, sum};
}

TEST_P(SoftmaxKernel, IsTheExponentialsOverTheirSum) {
  std::mt19937 random(7);
  for (size_t n = 1; n <= 100; ++n) {
    std::normal_distribution<float> scores(0, 20);
    std::vector<float> row(n);
    for (float& score : row) score = scores(random);
    const float scale = 0.125f;
    const Softmax softmax = Compute(row, scale);
    const double largest = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
      const double weight = std::exp((row[i] - largest) * scale);
      sum += weight;
      EXPECT_NEAR(softmax.weights[i], weight, weight * 0x1.01p-8) << i << " of " << n;
    }
    EXPECT_NEAR(softmax.sum, sum, sum * 1e-5) << n;
  }
}

TEST_P(SoftmaxKernel, TheLargestWeighsOneWhereverItIs) {
  for (size_t n : {1u, 3u, 16u, 37u}) {
    for (size_t at = 0; at < n; ++at) {
      std::vector<float> row(n, -1e30f);
      row[at] = 3e38f;
      const Softmax softmax = Compute(row, 1);
      for (size_t i = 0; i < n; ++i) EXPECT_EQ(softmax.weights[i], i == at ? 1 : 0) << i << ", " << at << " of " << n;
      EXPECT_EQ(softmax.sum, 1);
    }
  }
}

// A sample that is not finite must not become one that is.
TEST_P(SoftmaxKernel, WhatIsNotFiniteShows) {
  for (size_t n : {1u, 15u, 64u, 67u}) {
    for (size_t at = 0; at < n; ++at) {
      std::vector<float> row(n, 1);
      row[at] = kNan;
      const Softmax softmax = Compute(row, 1);
      EXPECT_TRUE(std::isnan(softmax.weights[at])) << at << " of " << n;
      EXPECT_TRUE(std::isnan(softmax.sum)) << at << " of " << n;
      row[at] = kInfinity;
      EXPECT_TRUE(std::isnan(Compute(row, 1).sum)) << at << " of " << n;
    }
  }
}

}  // namespace
}  // namespace fresco::kernels
