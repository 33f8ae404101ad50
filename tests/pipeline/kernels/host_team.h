// A team of row_programs.h on the CPU: one thread plays all lanes, step by step, with the sums in the order of a GPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "pipeline/kernels/row_programs.h"

namespace fresco::kernels {

class HostTeam {
 public:
  template <typename T>
  class PerLane {
   public:
    explicit PerLane(const HostTeam& team) : values_(static_cast<size_t>(team.lanes())) {}
    T& operator[](int lane) { return values_.at(static_cast<size_t>(lane)); }
    const T& operator[](int lane) const { return values_.at(static_cast<size_t>(lane)); }

   private:
    std::vector<T> values_;
  };

  explicit HostTeam(int lanes) : lanes_(lanes) {}

  int lanes() const { return lanes_; }

  template <typename F>
  void ForEach(const F& f) {
    for (int lane = 0; lane < lanes_; ++lane) f(lane);
  }

  // What lane 0 of each warp has after its exchanges, from warp to warp.
  template <typename T, typename Op>
  T Reduce(const PerLane<T>& values, const Op& op) {
    T result{};
    for (int first = 0; first < lanes_; first += kWarp) {
      const int count = std::min(kWarp, lanes_ - first);
      std::vector<T> warp;
      for (int lane = 0; lane < count; ++lane) warp.push_back(values[first + lane]);
      for (int distance = count / 2; distance > 0; distance /= 2)
        for (int lane = 0; lane < distance; ++lane) warp[lane] = op(warp[lane], warp[lane + distance]);
      result = first == 0 ? warp[0] : op(result, warp[0]);
    }
    return result;
  }

  void Add(unsigned long long* counter, uint32_t count) { *counter += count; }

 private:
  const int lanes_;
};

}  // namespace fresco::kernels
