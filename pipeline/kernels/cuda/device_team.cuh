// The teams of row_programs.h on a GPU: a lane is a thread.
#pragma once

#include <cstdint>

#include "pipeline/kernels/row_programs.h"

namespace fresco::kernels {

// A thread's own value: each has one lane.
template <typename T>
struct OwnLane {
  template <class Team>
  __device__ explicit OwnLane(const Team&) {}
  __device__ T& operator[](int) { return value; }
  __device__ const T& operator[](int) const { return value; }
  T value{};
};

// `lanes`, a power of two up to 32, adjoining threads of a warp, all of which take part.
template <typename T, typename Op>
__device__ T ReduceWithin(T value, int lanes, const Op& op) {
  for (int distance = lanes / 2; distance > 0; distance /= 2)
    value = op(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

// All threads of a block, whole warps.
class BlockTeam {
 public:
  template <typename T>
  using PerLane = OwnLane<T>;

  // Of what each warp has reduced, two in turn: the block may still be reading one when its first warp is at the next.
  struct Shared {
    uint32_t of_warp[2][kWarp];
  };

  __device__ explicit BlockTeam(Shared* shared) : shared_(shared) {}

  __device__ int lanes() const { return static_cast<int>(blockDim.x); }

  template <typename F>
  __device__ void ForEach(const F& f) {
    f(static_cast<int>(threadIdx.x));
  }

  template <typename T, typename Op>
  __device__ T Reduce(const OwnLane<T>& values, const Op& op) {
    static_assert(sizeof(T) == sizeof(uint32_t), "");
    const T own = ReduceWithin(values.value, kWarp, op);
    T* const of_warp = reinterpret_cast<T*>(shared_->of_warp[turn_]);
    turn_ ^= 1;
    if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = own;
    __syncthreads();
    T result = of_warp[0];
    for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) result = op(result, of_warp[warp]);
    return result;
  }

  __device__ void Add(unsigned long long* counter, uint32_t count) {
    if (threadIdx.x == 0) atomicAdd(counter, static_cast<unsigned long long>(count));
  }

 private:
  Shared* const shared_;
  int turn_ = 0;
};

// A part of a warp: the threads whose numbers agree but for their last bits. Its warp's threads all call Reduce.
class WarpPartTeam {
 public:
  template <typename T>
  using PerLane = OwnLane<T>;

  // lanes: a power of two up to 32. A team that is not `active` has no work: it only takes part in its warp's Reduce.
  __device__ WarpPartTeam(int lanes, bool active) : lanes_(lanes), active_(active) {}

  __device__ int lanes() const { return lanes_; }

  template <typename F>
  __device__ void ForEach(const F& f) {
    if (active_) f(static_cast<int>(threadIdx.x) % lanes_);
  }

  template <typename T, typename Op>
  __device__ T Reduce(const OwnLane<T>& values, const Op& op) {
    return ReduceWithin(values.value, lanes_, op);
  }

 private:
  const int lanes_;
  const bool active_;
};

}  // namespace fresco::kernels
