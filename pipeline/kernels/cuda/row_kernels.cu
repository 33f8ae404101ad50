// The row kernels: between two products a row is read once from memory and written once. Rows of up to 32,768 elements
// live in the registers of one block, 32 for each thread, loaded 16 bytes at a time: four loads are under way in each
// thread before the first is used.
#include <cuda_runtime.h>

#include "pipeline/kernels/cuda/device_team.cuh"
#include "pipeline/kernels/cuda/launch.cuh"
#include "pipeline/kernels/row_programs.h"

namespace fresco::kernels {
namespace {

constexpr int kMaxLanes = kMaxRowWidth / (kVector * kVectorsPerLane);
constexpr int kThreads = 256;  // of kernels whose work is not by rows

template <typename Type>
__global__ void __launch_bounds__(kMaxLanes) NormModulateKernel(const NormModulateJob job) {
  __shared__ BlockTeam::Shared shared;
  BlockTeam team(&shared);
  NormModulateRow<Type>(&team, job, blockIdx.x);
}

template <typename Type, bool kGelu>
__global__ void __launch_bounds__(kMaxLanes) RowKernel(const RowJob job) {
  __shared__ BlockTeam::Shared shared;
  BlockTeam team(&shared);
  QuantizeRow<Type, kGelu>(&team, job, blockIdx.x);
}

template <typename Type>
__global__ void GateResidualKernel(const GateResidualJob job, int64_t vectors) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index < vectors) GateResidualVector<Type>(job, index);
}

template <typename Type>
__global__ void DequantizeKernel(const DequantizeJob job, int64_t vectors) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index < vectors) DequantizeVector<Type>(job, index);
}

template <typename Type>
__global__ void NormHeadsKernel(const NormHeadsJob job) {
  const int lanes = HeadLanes(job);
  const int64_t head = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / lanes;
  WarpPartTeam team(lanes, head < HeadCount(job));
  NormHead<Type>(&team, job, head);
}

int64_t Vectors(const RowShape& shape) {
  return shape.rows * (shape.width / kVector);
}

unsigned Blocks(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

template <typename Type>
void Launch(const NormModulateJob& job, cudaStream_t stream) {
  NormModulateKernel<Type><<<static_cast<unsigned>(job.shape.rows), RowLanes(job.shape.width), 0, stream>>>(job);
}

template <typename Type>
void Launch(const RowJob& job, cudaStream_t stream) {
  const unsigned rows = static_cast<unsigned>(job.shape.rows);
  const auto kernel = job.gelu ? &RowKernel<Type, true> : &RowKernel<Type, false>;
  kernel<<<rows, RowLanes(job.shape.width), 0, stream>>>(job);
}

template <typename Type>
void Launch(const GateResidualJob& job, cudaStream_t stream) {
  const int64_t vectors = Vectors(job.shape);
  GateResidualKernel<Type><<<Blocks(vectors), kThreads, 0, stream>>>(job, vectors);
}

template <typename Type>
void Launch(const DequantizeJob& job, cudaStream_t stream) {
  const int64_t vectors = Vectors(job.shape);
  DequantizeKernel<Type><<<Blocks(vectors), kThreads, 0, stream>>>(job, vectors);
}

template <typename Type>
void Launch(const NormHeadsJob& job, cudaStream_t stream) {
  NormHeadsKernel<Type><<<Blocks(HeadCount(job) * HeadLanes(job)), kThreads, 0, stream>>>(job);
}

int64_t Rows(const NormHeadsJob& job) {
  return job.rows;
}
template <typename Job>
int64_t Rows(const Job& job) {
  return job.shape.rows;
}

// Returns null, or CUDA's words for what went wrong. type: CudaElement of cuda_library.h.
template <typename Job>
const char* Run(int32_t type, const Job* job, void* stream) {
  if (Rows(*job) == 0) return nullptr;
  return LaunchByType(type, [&](auto element) { Launch<decltype(element)>(*job, static_cast<cudaStream_t>(stream)); });
}

}  // namespace
}  // namespace fresco::kernels

extern "C" {

int64_t fresco_cuda_jobs_layout() {
  return fresco::kernels::kJobsLayout;
}

const char* fresco_cuda_norm_modulate(int32_t type, const fresco::kernels::NormModulateJob* job, void* stream) {
  return fresco::kernels::Run(type, job, stream);
}

const char* fresco_cuda_rows(int32_t type, const fresco::kernels::RowJob* job, void* stream) {
  return fresco::kernels::Run(type, job, stream);
}

const char* fresco_cuda_gate_residual(int32_t type, const fresco::kernels::GateResidualJob* job, void* stream) {
  return fresco::kernels::Run(type, job, stream);
}

const char* fresco_cuda_dequantize(int32_t type, const fresco::kernels::DequantizeJob* job, void* stream) {
  return fresco::kernels::Run(type, job, stream);
}

const char* fresco_cuda_norm_heads(int32_t type, const fresco::kernels::NormHeadsJob* job, void* stream) {
  return fresco::kernels::Run(type, job, stream);
}

}  // extern "C"
