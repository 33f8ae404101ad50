#include "bench/scheduler/device_model.h"

namespace fresco {
namespace {

constexpr double kLinearFlops = 23.9e12;  // at kMeasuredTokens
constexpr double kAttentionFlops = 7.25e12;
constexpr double kMeasuredTokens = 4429;
constexpr double kEmptyWaveTokens = 889;

}  // namespace

int TokensOf(int width, int height) {
  return (width / 16) * (height / 16) + kTextTokens;
}

double DeviceModel::StepSeconds(int tokens, int rows) const {
  if (measured_) {
    CostModel copy = *measured_;
    return copy.StepSeconds(copy.Curve(name_, tokens), rows);
  }
  const double share = tokens / kMeasuredTokens;
  const double of_row = kLinearFlops * share + kAttentionFlops * share * share;
  return of_row * (rows + kEmptyWaveTokens / tokens) / kFlopsPerSecond;
}

}  // namespace fresco
