#include "pipeline/precision/affine_fit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace fresco {
namespace {

std::vector<float> Normal(size_t n, unsigned seed, float deviation = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.3F, deviation);
  std::vector<float> values(n);
  for (float& value : values) value = normal(generator);
  return values;
}

// low = (exact - offset) / scale
std::vector<float> Distorted(const std::vector<float>& exact, float scale, float offset) {
  std::vector<float> low;
  for (const float value : exact) low.push_back((value - offset) / scale);
  return low;
}

TEST(AffineFitTest, FindsAPlantedDistortion) {
  const std::vector<float> exact = Normal(1000, 1);
  const std::vector<float> low = Distorted(exact, 1.004F, -0.02F);
  AffineFit fit;
  // In parts, as steps come.
  fit.Add({exact.data(), 400}, {low.data(), 400});
  fit.Add({exact.data() + 400, 600}, {low.data() + 400, 600});
  const auto [scale, offset] = fit.Solve(0);
  EXPECT_NEAR(scale, 1.004F, 1e-5);
  EXPECT_NEAR(offset, -0.02F, 1e-5);
  EXPECT_NEAR(fit.SquaredError(scale, offset), 0, 1e-6);
  EXPECT_GT(fit.SquaredError(1, 0), 0.1);
}

TEST(AffineFitTest, FindsItUnderIndependentNoise) {
  const std::vector<float> exact = Normal(100000, 2), noise = Normal(100000, 3, 0.05F);
  std::vector<float> low = Distorted(exact, 1.02F, 0.01F);
  for (size_t i = 0; i < low.size(); ++i) low[i] += noise[i] - 0.3F;
  AffineFit fit;
  fit.Add(exact, low);
  const auto [scale, offset] = fit.Solve(0);
  // Noise of a variance of 0.05² on a variance of 1 / 1.02² attenuates the slope by 0.26 %.
  EXPECT_NEAR(scale, 1.02 / (1 + 0.05 * 0.05 * 1.02 * 1.02), 1e-3);
  EXPECT_NEAR(fit.SquaredError(scale, offset) / 1e5, 0.05 * 0.05, 1e-4);
}

// What SquaredError says, against the sum itself.
TEST(AffineFitTest, SquaredErrorIsThatOfTheValues) {
  const std::vector<float> exact = Normal(50, 4), low = Normal(50, 5);
  AffineFit fit;
  fit.Add(exact, low);
  double sum = 0;
  for (size_t i = 0; i < exact.size(); ++i) sum += std::pow(exact[i] - (0.7 * low[i] + 0.1), 2);
  EXPECT_NEAR(fit.SquaredError(0.7, 0.1), sum, 1e-9);
}

TEST(AffineFitTest, DampingDrawsTowardsNoCorrection) {
  const std::vector<float> exact = Normal(1000, 6);
  AffineFit fit;
  fit.Add(exact, Distorted(exact, 1.1F, 0));
  const float plain = fit.Solve(0).first, damped = fit.Solve(1).first;
  EXPECT_NEAR(plain, 1.1F, 1e-4);
  EXPECT_NEAR(damped, 1.05F, 1e-4);  // as many values again without a difference: half of it
}

TEST(AffineFitTest, NothingAndAConstantCorrectNothingButTheOffset) {
  EXPECT_EQ(AffineFit().Solve(0), (std::pair{1.0F, 0.0F}));
  const std::vector<float> exact(100, 0.75F), low(100, 0.5F);
  AffineFit fit;
  fit.Add(exact, low);
  EXPECT_EQ(fit.Solve(0), (std::pair{1.0F, 0.25F}));
}

}  // namespace
}  // namespace fresco
