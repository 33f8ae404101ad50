#include "bench/scheduler/trace.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "bench/scheduler/device_model.h"

namespace fresco {
namespace {

struct Size {
  int width, height;
  double weight;
};
constexpr Size kSizes[] = {{512, 512, 0.30}, {640, 640, 0.10}, {768, 768, 0.20}, {1024, 768, 0.15}, {1024, 1024, 0.25}};
// What clients offer as square, wide and tall: areas that are nearly equal, and seldom quite.
constexpr Size kLargeRatios[] = {{1024, 1024, 0.30}, {1152, 896, 0.15}, {896, 1152, 0.10},
                                 {1344, 768, 0.15},  {832, 1216, 0.20}, {1536, 640, 0.10}};
constexpr Size kSmallRatios[] = {{384, 688, 1}, {400, 656, 1}, {416, 624, 1}, {432, 608, 1}, {448, 592, 1},
                                 {464, 560, 1}, {480, 544, 1}, {496, 528, 1}, {512, 512, 3}, {528, 496, 1},
                                 {544, 480, 1}, {560, 464, 1}, {592, 448, 1}, {608, 432, 1}, {624, 416, 1},
                                 {656, 400, 1}, {688, 384, 1}};

const std::vector<Size>& SizesOf(Sizes sizes) {
  static const std::vector<Size> any(std::begin(kSizes), std::end(kSizes));
  static const std::vector<Size> large(std::begin(kLargeRatios), std::end(kLargeRatios));
  static const std::vector<Size> small(std::begin(kSmallRatios), std::end(kSmallRatios));
  return sizes == Sizes::kOfEverySort ? any : sizes == Sizes::kLargeRatios ? large : small;
}

struct Steps {
  int steps, rows;
  double weight;
};
constexpr Steps kSteps[] = {{4, 1, 0.20}, {20, 2, 0.20}, {28, 2, 0.35}, {40, 2, 0.15}, {50, 2, 0.10}};

constexpr double kClassWeights[] = {0.4, 0.4, 0.2};
constexpr double kTenantWeights[kTenants] = {0.30,   0.20,   0.0625, 0.0625, 0.0625,
                                             0.0625, 0.0625, 0.0625, 0.0625, 0.0625};
constexpr double kImageWeights[] = {0.80, 0.15, 0, 0.05};
constexpr double kWithDeadline = 0.3;
constexpr double kQuietRate = 0.5, kBurstRate = 2.5;      // of the mean
constexpr double kQuietSeconds = 60, kBurstSeconds = 20;  // mean lengths

template <typename Rows>
std::vector<double> WeightsOf(const Rows& rows) {
  std::vector<double> weights;
  for (const auto& row : rows) weights.push_back(row.weight);
  return weights;
}

// Latents in fp32 and the texts' embeddings (4,096 wide, bf16) of each row.
int64_t StateBytes(const Size& size, int rows) {
  const int64_t latents = int64_t{16} * (size.width / 8) * (size.height / 8) * 4;
  return latents + int64_t{rows} * kTextTokens * 4096 * 2;
}

}  // namespace

Trace::Trace(const TraceOptions& options)
    : options_(options), size_weights_(WeightsOf(SizesOf(options.sizes))), random_(options.seed) {}

// The standard's distributions differ between libraries; its engines do not.
double Trace::Uniform() {
  return static_cast<double>(random_() >> 11) * 0x1.0p-53;
}

double Trace::Exponential(double mean) {
  return -mean * std::log1p(-Uniform());
}

int Trace::Pick(const std::vector<double>& weights) {
  double left = Uniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
  for (size_t i = 0; i + 1 < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return static_cast<int>(i);
  }
  return static_cast<int>(weights.size()) - 1;
}

double Trace::NextArrival() {
  if (options_.arrivals == Arrivals::kPoisson) return now_ + Exponential(1 / options_.requests_per_second);
  while (true) {
    const double rate = options_.requests_per_second * (burst_ ? kBurstRate : kQuietRate);
    const double next = now_ + Exponential(1 / rate);
    if (next <= phase_end_) return next;
    // An exponential wait has no memory: it starts anew with the next phase's rate.
    now_ = phase_end_;
    burst_ = !burst_;
    phase_end_ = now_ + Exponential(burst_ ? kBurstSeconds : kQuietSeconds);
  }
}

SimulatedRequest Trace::Next() {
  static const std::vector<double> step_weights = WeightsOf(kSteps);
  static const std::vector<double> tenant_weights(std::begin(kTenantWeights), std::end(kTenantWeights));
  static const std::vector<double> class_weights(std::begin(kClassWeights), std::end(kClassWeights));
  static const std::vector<double> image_weights(std::begin(kImageWeights), std::end(kImageWeights));
  SimulatedRequest request;
  now_ = NextArrival();
  request.arrival = now_;
  request.tenant = Pick(tenant_weights);
  const int chosen_class = Pick(class_weights);
  request.priority = request.tenant == 0 ? PriorityClass::kInteractive : static_cast<PriorityClass>(chosen_class);
  const Size& size = SizesOf(options_.sizes)[Pick(size_weights_)];
  const Steps& steps = kSteps[Pick(step_weights)];
  request.tokens = TokensOf(size.width, size.height);
  request.rows = steps.rows;
  request.steps = steps.steps;
  request.images = 1 + Pick(image_weights);
  request.state_bytes = StateBytes(size, steps.rows);
  if (Uniform() < kWithDeadline) request.patience = 0.8 + 1.2 * Uniform();
  return request;
}

}  // namespace fresco
