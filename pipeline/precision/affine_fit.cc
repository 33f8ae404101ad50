#include "pipeline/precision/affine_fit.h"

#include <cstddef>

namespace fresco {

// Of the residual and not of y: a is 1 to a thousandth, and what is sought would be lost in the sums' last digits.
void AffineFit::Add(std::span<const float> exact, std::span<const float> low) {
  for (size_t i = 0; i < exact.size(); ++i) {
    const double value = low[i], difference = static_cast<double>(exact[i]) - value;
    ++count;
    x += value;
    residual += difference;
    xx += value * value;
    x_residual += value * difference;
    residual_squared += difference * difference;
  }
}

std::pair<float, float> AffineFit::Solve(double damping) const {
  if (count == 0) return {1.0F, 0.0F};
  const auto n = static_cast<double>(count);
  const double mean = x / n, mean_residual = residual / n / (1 + damping);
  const double variance = xx / n - mean * mean;
  const double covariance = (x_residual / n - mean * residual / n) / (1 + damping);
  // A variance of rounding errors alone has nothing to say about a.
  const double slope = variance > 1e-12 * (xx / n) ? covariance / variance : 0.0;
  return {static_cast<float>(1 + slope), static_cast<float>(mean_residual - slope * mean)};
}

// y - (scale x + offset) is the residual less slope x + offset.
double AffineFit::SquaredError(double scale, double offset) const {
  const double slope = scale - 1;
  return residual_squared - 2 * slope * x_residual - 2 * offset * residual + slope * slope * xx +
         2 * slope * offset * x + offset * offset * static_cast<double>(count);
}

}  // namespace fresco
