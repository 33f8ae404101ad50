// What is counted of a layer's input while prompts are drawn. Torch-free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "pipeline/precision/calibration.h"

namespace fresco {

// Of one bucket of noise levels. Not thread-safe; what was counted of parts adds up to the whole, in any order.
class InputStatistics {
 public:
  // NaN counts as 0.
  void Add(std::span<const float> values);
  void Add(const InputStatistics& other);

  ActivationRange Range() const;

  // For what must outlive the process: the magnitudes' histogram without its empty bins, as (bin, count).
  struct Counts {
    int64_t count = 0;
    float min = 0;
    float max = 0;
    std::vector<std::pair<size_t, int64_t>> bins;

    bool operator==(const Counts&) const = default;
  };
  Counts counts() const;
  // Nothing is known of a bin >= kBins or a count below 0: check them first.
  static InputStatistics FromCounts(const Counts& counts);

  // Bins are 1/32 of an octave wide, over 2^-20 to 2^20; the first and the last also hold what lies beyond.
  static constexpr size_t kBins = 40 * 32;

 private:
  int64_t count_ = 0;
  float min_ = 0;
  float max_ = 0;
  std::vector<int64_t> bins_;  // kBins, or none before the first value
};

// Of each of a layer's input channels, over all noise levels. NaN counts as 0.
struct ChannelStatistics {
  int64_t rows = 0;           // tokens seen
  std::vector<float> absmax;  // [in]
  std::vector<double> sum;    // [in]

  explicit ChannelStatistics(size_t channels = 0) : absmax(channels), sum(channels) {}

  // row [in]
  void Add(std::span<const float> row);
  // Sums are of doubles: adding the same parts in the same order gives the same bits.
  void Add(const ChannelStatistics& other);

  std::vector<float> Mean() const;  // [in]

  bool operator==(const ChannelStatistics&) const = default;
};

}  // namespace fresco
