// Least squares for noise correction. Torch-free.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

namespace fresco {

// What is exact (y) against what was computed in low precision (x). Sums in double; not thread-safe.
struct AffineFit {
  int64_t count = 0;
  double x = 0;         // sum of x
  double residual = 0;  // sum of y - x
  double xx = 0;        // sum of x²
  double x_residual = 0;
  double residual_squared = 0;

  void Add(std::span<const float> exact, std::span<const float> low);

  // (a, b) such that a x + b is nearest to y, drawn towards (1, 0) by `damping`: as if that share of the values again
  // had been seen without a difference. 0: plain least squares. (1, 0) of nothing, or of x without variation and
  // difference.
  std::pair<float, float> Solve(double damping) const;

  // Sum of (y - (scale x + offset))² over what was added.
  double SquaredError(double scale, double offset) const;

  bool operator==(const AffineFit&) const = default;
};

}  // namespace fresco
