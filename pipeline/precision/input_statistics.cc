#include "pipeline/precision/input_statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace fresco {
namespace {

// A float's bits without its sign, read as a number, rise with its magnitude: their upper ones are the exponent and the
// first five bits of the mantissa, which is 32 bins to an octave.
constexpr int kBinShift = 18;
constexpr uint32_t kMagnitudeBits = 0x7fffffff;
constexpr uint32_t kInfinity = 0x7f800000;
constexpr uint32_t kFirstBin = (127 - 20) << 5;

size_t BinOf(uint32_t magnitude) {
  const uint32_t bin = magnitude >> kBinShift;
  if (bin <= kFirstBin) return 0;
  return std::min<size_t>(bin - kFirstBin, InputStatistics::kBins - 1);
}

// What no value in the bin exceeds.
float UpperEdge(size_t bin) {
  return std::bit_cast<float>(static_cast<uint32_t>(kFirstBin + bin + 1) << kBinShift);
}

}  // namespace

void InputStatistics::Add(std::span<const float> values) {
  if (values.empty()) return;
  if (bins_.empty()) bins_.resize(kBins);
  for (const float given : values) {
    const uint32_t bits = std::bit_cast<uint32_t>(given) & kMagnitudeBits;
    const float value = bits > kInfinity ? 0.0F : given;
    if (count_++ == 0) min_ = max_ = value;
    min_ = std::min(min_, value);
    max_ = std::max(max_, value);
    ++bins_[BinOf(bits > kInfinity ? 0 : bits)];
  }
}

void InputStatistics::Add(const InputStatistics& other) {
  if (other.count_ == 0) return;
  if (bins_.empty()) bins_.resize(kBins);
  for (size_t i = 0; i < kBins; ++i) bins_[i] += other.bins_[i];
  min_ = count_ == 0 ? other.min_ : std::min(min_, other.min_);
  max_ = count_ == 0 ? other.max_ : std::max(max_, other.max_);
  count_ += other.count_;
}

ActivationRange InputStatistics::Range() const {
  ActivationRange range{count_, min_, max_, {}};
  for (size_t i = 0; i < kPercentiles.size() && count_ > 0; ++i) {
    // The rank of the value that so many are at most.
    const auto rank = static_cast<int64_t>(std::ceil(static_cast<double>(count_) * (kPercentiles[i] / 100)));
    int64_t below = 0;
    size_t bin = 0;
    while (bin + 1 < kBins && (below += bins_[bin]) < rank) ++bin;
    range.percentiles[i] = bin + 1 == kBins ? range.absmax() : std::min(UpperEdge(bin), range.absmax());
  }
  return range;
}

InputStatistics::Counts InputStatistics::counts() const {
  Counts counts{count_, min_, max_, {}};
  for (size_t i = 0; i < bins_.size(); ++i) {
    if (bins_[i] > 0) counts.bins.emplace_back(i, bins_[i]);
  }
  return counts;
}

InputStatistics InputStatistics::FromCounts(const Counts& counts) {
  InputStatistics statistics;
  statistics.count_ = counts.count;
  statistics.min_ = counts.min;
  statistics.max_ = counts.max;
  if (counts.count > 0 || !counts.bins.empty()) statistics.bins_.resize(kBins);
  for (const auto& [bin, count] : counts.bins) statistics.bins_[bin] = count;
  return statistics;
}

void ChannelStatistics::Add(std::span<const float> row) {
  ++rows;
  for (size_t i = 0; i < row.size(); ++i) {
    const float value = std::isnan(row[i]) ? 0.0F : row[i];
    absmax[i] = std::max(absmax[i], std::abs(value));
    sum[i] += value;
  }
}

void ChannelStatistics::Add(const ChannelStatistics& other) {
  rows += other.rows;
  for (size_t i = 0; i < absmax.size(); ++i) {
    absmax[i] = std::max(absmax[i], other.absmax[i]);
    sum[i] += other.sum[i];
  }
}

std::vector<float> ChannelStatistics::Mean() const {
  std::vector<float> mean;
  for (const double channel : sum)
    mean.push_back(static_cast<float>(channel / static_cast<double>(std::max<int64_t>(1, rows))));
  return mean;
}

}  // namespace fresco
