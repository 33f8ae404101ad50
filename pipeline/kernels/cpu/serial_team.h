// A team of row_programs.h on one thread, which plays all lanes in turn.
#pragma once

#include <array>

namespace fresco::kernels {

template <int kLanes>
class SerialTeam {
 public:
  template <typename T>
  class PerLane {
   public:
    explicit PerLane(const SerialTeam&) {}
    T& operator[](int lane) { return values_[static_cast<size_t>(lane)]; }
    const T& operator[](int lane) const { return values_[static_cast<size_t>(lane)]; }

   private:
    std::array<T, kLanes> values_{};
  };

  int lanes() const { return kLanes; }

  template <typename F>
  void ForEach(const F& f) {
    for (int lane = 0; lane < kLanes; ++lane) f(lane);
  }

  // In order: for operations of which it does not matter.
  template <typename T, typename Op>
  T Reduce(const PerLane<T>& values, const Op& op) {
    T result = values[0];
    for (int lane = 1; lane < kLanes; ++lane) result = op(result, values[lane]);
    return result;
  }
};

}  // namespace fresco::kernels
