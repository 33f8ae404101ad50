// The warps of attention8_program.h on a GPU: a lane is a thread.
#pragma once

#include <cstdint>

#include "pipeline/kernels/attention8_program.h"
#include "pipeline/kernels/cuda/device_team.cuh"

namespace fresco::kernels {

__device__ inline unsigned SharedAddress(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// What both kinds of warps have.
class DeviceWarp {
 public:
  template <typename T>
  using PerLane = OwnLane<T>;

  template <typename F>
  __device__ void ForEach(const F& f) {
    f(static_cast<int>(threadIdx.x) % kWarp);
  }

  __device__ void QuadMax(OwnLane<RowPair>* pair) {
    FRESCO_UNROLL
    for (float& x : pair->value.row) {
      x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
      x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
    }
  }

  __device__ void QuadFirst(OwnLane<RowPair>* pair) {
    const int first = static_cast<int>(threadIdx.x) % kWarp / 4 * 4;
    FRESCO_UNROLL
    for (float& x : pair->value.row) x = __shfl_sync(0xffffffffu, x, first);
  }

  __device__ float Exp2(float x) const {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
  }
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890

// mma.sync, by each warp on its own. An instruction of its own on 8.9 and 12.x; elsewhere (9.0, 10.x) what the compiler
// makes of it converts the codes to fp16, which is right but not faster than fp16.
class SyncWarp : public DeviceWarp {
 public:
  __device__ void Scores(const OwnLane<LeftFragment>& q, const uint8_t* keys, OwnLane<ScoreFragment>* scores) {
    Product(q.value, keys, scores->value.part);
  }
  __device__ void Mix(const OwnLane<LeftFragment>& weights, const uint8_t* values, OwnLane<MixFragment>* mix) {
    Product(weights.value, values, mix->value.part);
  }
  // What was copied to shared memory can be read by every thread behind the next barrier.
  __device__ static void PublishCopies() {}

 private:
  template <int kParts>
  __device__ void Product(const LeftFragment& left, const uint8_t* rows, float (&parts)[kParts][4]) {
    const unsigned base = SharedAddress(rows);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    FRESCO_UNROLL
    for (int n = 0; n < kParts; ++n) {
      uint32_t right[2 * kSteps];
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(right[0]), "=r"(right[1]), "=r"(right[2]), "=r"(right[3])
                   : "r"(base + static_cast<unsigned>(MatrixRowOffset(lane, n))));
      FRESCO_UNROLL
      for (int i = 0; i < 4; ++i) parts[n][i] = 0;
      FRESCO_UNROLL
      for (int step = 0; step < kSteps; ++step) Multiply(left.word[step], right + 2 * step, parts[n]);
    }
  }

  __device__ static void Multiply(const uint32_t (&a)[4], const uint32_t* b, float (&sums)[4]) {
    asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// wgmma of Hopper: four warps, each with its 16 rows of 64, multiply together, the right factor straight from shared
// memory.
class GroupWarp : public DeviceWarp {
 public:
  __device__ void Scores(const OwnLane<LeftFragment>& q, const uint8_t* keys, OwnLane<ScoreFragment>* scores) {
    const uint64_t right = RightFactor(SharedAddress(keys));
    Begin();
    Multiply<false>(q.value.word[0], right, scores->value.part);
    Multiply<true>(q.value.word[1], right + kStepOfFactor, scores->value.part);
    End(scores->value.part);
  }
  __device__ void Mix(const OwnLane<LeftFragment>& weights, const uint8_t* values, OwnLane<MixFragment>* mix) {
    const uint64_t right = RightFactor(SharedAddress(values));
    Begin();
    Multiply<false>(weights.value.word[0], right, mix->value.part);
    Multiply<true>(weights.value.word[1], right + kStepOfFactor, mix->value.part);
    End(mix->value.part);
  }
  // wgmma reads shared memory by another way than threads: what they have copied must be seen there too.
  __device__ static void PublishCopies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

 private:
  __device__ static void Begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
  // The sums are there afterwards, and the compiler reads none of them before.
  template <int kParts>
  __device__ static void End(float (&sums)[kParts][4]) {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    FRESCO_UNROLL
    for (int n = 0; n < kParts; ++n) {
      FRESCO_UNROLL
      for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(sums[n][i])::"memory");
    }
  }

  // clang-format off
#define FRESCO_PART(n) "+f"(sums[n][0]), "+f"(sums[n][1]), "+f"(sums[n][2]), "+f"(sums[n][3])
  template <bool kAdd>
  __device__ static void Multiply(const uint32_t (&a)[4], uint64_t right, float (&sums)[8][4]) {
    asm volatile(
        "{ .reg .pred add; setp.ne.b32 add, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, add, 1, 1; }"
        : FRESCO_PART(0), FRESCO_PART(1), FRESCO_PART(2), FRESCO_PART(3), FRESCO_PART(4), FRESCO_PART(5),
          FRESCO_PART(6), FRESCO_PART(7)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right), "n"(kAdd ? 1 : 0));
  }
  template <bool kAdd>
  __device__ static void Multiply(const uint32_t (&a)[4], uint64_t right, float (&sums)[9][4]) {
    asm volatile(
        "{ .reg .pred add; setp.ne.b32 add, %41, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n72k32.f32.e4m3.e4m3 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35}, {%36, %37, %38, %39}, %40, add, 1, 1; }"
        : FRESCO_PART(0), FRESCO_PART(1), FRESCO_PART(2), FRESCO_PART(3), FRESCO_PART(4), FRESCO_PART(5),
          FRESCO_PART(6), FRESCO_PART(7), FRESCO_PART(8)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right), "n"(kAdd ? 1 : 0));
  }
#undef FRESCO_PART
  // clang-format on
};

#endif

}  // namespace fresco::kernels
