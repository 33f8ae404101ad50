#include "pipeline/diffusion/schedule.h"

#include <cstddef>

namespace fresco {
namespace {

// sigma <- shift * sigma / (1 + (shift - 1) * sigma), in the type of sigma: the range is shifted in fp32, the steps in
// fp64.
template <typename Float>
Float Shift(Float sigma, double shift) {
  return static_cast<Float>(shift) * sigma / (Float{1} + static_cast<Float>(shift - 1) * sigma);
}

// numpy.linspace, with its order of rounding.
std::vector<double> Linspace(double first, double last, int count) {
  std::vector<double> values(static_cast<size_t>(count), first);
  if (count == 1) return values;
  const double step = (last - first) / (count - 1);
  for (int i = 1; i < count; ++i) values[static_cast<size_t>(i)] = i * step + first;
  values.back() = last;
  return values;
}

}  // namespace

Schedule MakeSchedule(const ScheduleConfig& config, int steps) {
  const float train = static_cast<float>(config.train_timesteps);
  const double highest = Shift(train / train, config.shift);
  const double lowest = Shift(1.0f / train, config.shift);
  Schedule schedule;
  for (const double timestep : Linspace(highest * config.train_timesteps, lowest * config.train_timesteps, steps)) {
    const float sigma = static_cast<float>(Shift(timestep / config.train_timesteps, config.shift));
    schedule.sigmas.push_back(sigma);
    schedule.timesteps.push_back(sigma * train);
  }
  schedule.sigmas.push_back(0.0f);
  return schedule;
}

}  // namespace fresco
