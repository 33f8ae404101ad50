// GroupNorm and SiLU over a channels-last image: three launches, of which two read the image and one writes it.
// Then the sum of two images. Libtorch's own norm works on images that are not channels-last, so that it would be laid
// out anew before and after.
#include <cuda_runtime.h>

#include "pipeline/kernels/cuda/device_team.cuh"
#include "pipeline/kernels/cuda/launch.cuh"
#include "pipeline/kernels/group_norm_program.h"

namespace fresco::kernels {
namespace {

constexpr int kThreads = 256;

__device__ int64_t OwnLaneOfAll() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

template <typename Type>
__global__ void __launch_bounds__(kThreads) AddUpKernel(const GroupNormJob job, int64_t lanes) {
  if (OwnLaneOfAll() < lanes) AddUpRun<Type>(job, OwnLaneOfAll());
}

template <typename Type>
__global__ void __launch_bounds__(kThreads) StatisticsKernel(const GroupNormJob job) {
  __shared__ BlockTeam::Shared shared;
  BlockTeam team(&shared);
  GroupStatistics<Type, BlockTeam>(&team, job, static_cast<int>(blockIdx.x)).Write();
}

template <typename Type>
__global__ void __launch_bounds__(kThreads) NormaliseKernel(const GroupNormJob job, int64_t lanes) {
  if (OwnLaneOfAll() < lanes) NormaliseRun<Type>(job, OwnLaneOfAll());
}

template <typename Type>
__global__ void __launch_bounds__(kThreads) AddImagesKernel(const AddImagesJob job, int64_t vectors) {
  if (OwnLaneOfAll() < vectors) AddImagesVector<Type>(job, OwnLaneOfAll());
}

unsigned Blocks(int64_t lanes) {
  return static_cast<unsigned>((lanes + kThreads - 1) / kThreads);
}

template <typename Type>
void Launch(const AddImagesJob& job, cudaStream_t stream) {
  const int64_t vectors = job.pixels * (job.channels / kVector);
  AddImagesKernel<Type><<<Blocks(vectors), kThreads, 0, stream>>>(job, vectors);
}

template <typename Type>
void Launch(const GroupNormJob& job, cudaStream_t stream) {
  const int64_t lanes = job.runs * (job.channels / kVector);
  AddUpKernel<Type><<<Blocks(lanes), kThreads, 0, stream>>>(job, lanes);
  StatisticsKernel<Type><<<static_cast<unsigned>(job.groups), kThreads, 0, stream>>>(job);
  NormaliseKernel<Type><<<Blocks(lanes), kThreads, 0, stream>>>(job, lanes);
}

// Returns null, or CUDA's words for what went wrong. type: CudaElement of cuda_library.h.
template <typename Job>
const char* Run(int32_t type, const Job* job, void* stream) {
  return LaunchByType(type, [&](auto element) { Launch<decltype(element)>(*job, static_cast<cudaStream_t>(stream)); });
}

}  // namespace
}  // namespace fresco::kernels

extern "C" {

int64_t fresco_cuda_image_jobs_layout() {
  return fresco::kernels::kImageJobsLayout;
}

const char* fresco_cuda_group_norm(int32_t type, const fresco::kernels::GroupNormJob* job, void* stream) {
  return fresco::kernels::Run(type, job, stream);
}

const char* fresco_cuda_add_images(int32_t type, const fresco::kernels::AddImagesJob* job, void* stream) {
  return fresco::kernels::Run(type, job, stream);
}

}  // extern "C"
