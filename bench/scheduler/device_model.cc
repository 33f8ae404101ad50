#include "bench/scheduler/device_model.h"

namespace fresco {
namespace {

constexpr double kMeasuredTokens = 4429;

}  // namespace

int TokensOf(int width, int height) {
  return (width / 16) * (height / 16) + kTextTokens;
}

double DeviceModel::StepSeconds(const std::map<int, int>& rows) const {
  const double longer = rows.size() > 1 ? 1 + mixing_ : 1;
  if (measured_) return longer * MeasuredSeconds(rows);
  const double empty = work_.empty_wave_tokens / kMeasuredTokens;
  double flops = work_.linear_flops * empty;
  for (const auto& [tokens, of_size] : rows) {
    const double share = tokens / kMeasuredTokens;
    flops += work_.linear_flops * share * of_size;
    flops += work_.attention_flops * share * (share * of_size + empty);
  }
  return longer * flops / kFlopsPerSecond;
}

double DeviceModel::MeasuredSeconds(const std::map<int, int>& rows) const {
  CostModel copy = *measured_;
  StepSize size;
  for (const auto& [tokens, of_size] : rows) size.Add(copy.Curve(name_, tokens), tokens, of_size);
  return copy.StepSeconds(size);
}

}  // namespace fresco
