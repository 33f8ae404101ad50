// FP8 attention (attention8_jobs.h): heads into codes, then the attention itself. A block has 128 query rows of a head,
// 16 for each warp, and goes through its keys and values tile by tile, two tiles ahead on their way into shared memory.
#include <cuda_runtime.h>

#include "pipeline/kernels/cuda/attention8_warps.cuh"
#include "pipeline/kernels/cuda/device_team.cuh"
#include "pipeline/kernels/cuda/launch.cuh"
#include "pipeline/kernels/encode_heads.h"

namespace fresco::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kBlockRows = kThreads / kWarp * kWarpRows;

// ---- codes ----------------------------------------------------------------------------------------------------------

template <typename Type>
__global__ void StatisticsKernel(const EncodeHeadsJob job) {
  const int64_t tile = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kStatisticsLanes;
  if (tile >= HeadsOf(job) * TilesOf(job.tokens)) return;  // whole warps
  WarpPartTeam team(kStatisticsLanes, /*active=*/true);
  TileStatisticsOf<Type>(&team, job, tile);
}

__global__ void TotalsKernel(const EncodeHeadsJob job) {
  __shared__ BlockTeam::Shared shared;
  BlockTeam team(&shared);
  TotalsOfHead(&team, job, blockIdx.x);
}

template <typename Type>
__global__ void EncodeRowsKernel(const EncodeHeadsJob job) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kRowOfHeadLanes;
  WarpPartTeam team(kRowOfHeadLanes, row < HeadsOf(job) * FilledTokens(job.tokens));
  EncodeRow<Type>(&team, job, row);
}

template <typename Type>
__global__ void EncodeValuesKernel(const EncodeHeadsJob job) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index < EncodeValuesCount(job)) EncodeValues<Type>(job, index);
}

unsigned Blocks(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

template <typename Type>
void Launch(const EncodeHeadsJob& job, cudaStream_t stream) {
  const int64_t heads = HeadsOf(job);
  StatisticsKernel<Type><<<Blocks(heads * TilesOf(job.tokens) * kStatisticsLanes), kThreads, 0, stream>>>(job);
  TotalsKernel<<<static_cast<unsigned>(heads), kAttention8Dim, 0, stream>>>(job);
  EncodeRowsKernel<Type><<<Blocks(heads * FilledTokens(job.tokens) * kRowOfHeadLanes), kThreads, 0, stream>>>(job);
  EncodeValuesKernel<Type><<<Blocks(EncodeValuesCount(job)), kThreads, 0, stream>>>(job);
}

// ---- attention ------------------------------------------------------------------------------------------------------

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
using Warp = GroupWarp;
#else
using Warp = SyncWarp;
#endif

constexpr int kStages = 3;

// The tiles of a head on their way through shared memory.
class TileQueue {
 public:
  using Stage = uint8_t[kStageBytes];

  __device__ TileQueue(Stage* stages, const Attention8Job& job, int64_t head)
      : stages_(stages), job_(job), head_(head), tiles_(static_cast<int>(TilesOf(job.tokens))) {
    if (threadIdx.x < kSumRows * kTileRowBytes / 4)
      for (int i = 0; i < kStages; ++i) WriteSumRows(stages_[i], static_cast<int>(threadIdx.x));
    for (int i = 0; i < kStages - 1; ++i) Begin(i);
  }

  __device__ int tiles() const { return tiles_; }

  // The next one; the block is done with all before it.
  __device__ const uint8_t* Next() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
    Warp::PublishCopies();
    __syncthreads();
    Begin(next_ + kStages - 1);
    return stages_[next_++ % kStages];
  }

 private:
  // One group of copies, perhaps of none, so that all tiles' groups are counted alike.
  __device__ void Begin(int tile) {
    if (tile < tiles_) {
      const unsigned stage = SharedAddress(stages_[tile % kStages]);
      FRESCO_UNROLL
      for (int i = 0; i < kChunksOfTile / kThreads; ++i)
        CopyChunk(job_.codes, job_.tokens, head_, tile, static_cast<int>(threadIdx.x) + i * kThreads,
                  [stage](int offset, const uint8_t* source) {
                    asm volatile(
                        "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(stage + static_cast<unsigned>(offset)),
                        "l"(source)
                        : "memory");
                  });
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  Stage* const stages_;
  const Attention8Job& job_;
  const int64_t head_;
  const int tiles_;
  int next_ = 0;
};
static_assert(kChunksOfTile % kThreads == 0, "");

#endif

// Two blocks of a multiprocessor: while the warps of one take exponentials, those of the other multiply.
template <typename Type>
__global__ void __launch_bounds__(kThreads, 2) AttentionKernel(const Attention8Job job) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  __shared__ __align__(1024) uint8_t stages[kStages][kStageBytes];
  const int64_t head = blockIdx.y, first = static_cast<int64_t>(blockIdx.x) * kBlockRows;
  TileQueue queue(stages, job, head);
  Warp warp;
  QueryRows<Warp> rows(&warp, job, head, first + threadIdx.x / kWarp * kWarpRows);
  for (int tile = 0; tile < queue.tiles(); ++tile) {
    const uint8_t* const stage = queue.Next();
    const int64_t left = job.tokens - static_cast<int64_t>(tile) * kAttention8Tile;
    rows.Add(stage, static_cast<int>(left < kAttention8Tile ? left : kAttention8Tile));
  }
  rows.template Store<Type>();
#endif
}

template <typename Type>
void Launch(const Attention8Job& job, cudaStream_t stream) {
  const dim3 blocks(static_cast<unsigned>((job.tokens + kBlockRows - 1) / kBlockRows),
                    static_cast<unsigned>(job.samples * job.heads));
  AttentionKernel<Type><<<blocks, kThreads, 0, stream>>>(job);
}

// Whether the current device's code of AttentionKernel is one that does anything.
bool ComputesFp8() {
  int device = 0, major = 0, minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return 10 * major + minor >= 89;
}

// Returns null, or what went wrong. type: CudaElement of cuda_library.h.
template <typename Job>
const char* Run(int32_t type, const Job* job, void* stream) {
  if (!ComputesFp8()) return "FP8 attention needs a GPU of compute capability 8.9 or later";
  return LaunchByType(type, [&](auto element) { Launch<decltype(element)>(*job, static_cast<cudaStream_t>(stream)); });
}

}  // namespace
}  // namespace fresco::kernels

extern "C" {

int64_t fresco_cuda_attention8_layout() {
  return fresco::kernels::kAttention8Layout;
}

const char* fresco_cuda_encode_heads(int32_t type, const fresco::kernels::EncodeHeadsJob* job, void* stream) {
  return fresco::kernels::Run(type, job, stream);
}

const char* fresco_cuda_attention8(int32_t type, const fresco::kernels::Attention8Job* job, void* stream) {
  return fresco::kernels::Run(type, job, stream);
}

}  // extern "C"
