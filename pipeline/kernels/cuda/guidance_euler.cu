// Guidance and Euler step of one image in one pass over memory: reads two velocities and the latent, writes the guided
// velocity and the next latent, and says whether that is finite. Eager tensors take ten passes and as many launches.
#include <cuda_runtime.h>

#include "pipeline/kernels/cuda/launch.cuh"
#include "pipeline/kernels/guidance_math.h"

namespace fresco::kernels {
namespace {

template <typename Type>
__global__ void GuidanceEulerKernel(const __grid_constant__ GuidanceEulerJob job) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < job.elements; i += stride)
    UpdateElement<Type>(job, i);
}

template <typename Type>
void Launch(const GuidanceEulerJob& job, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const int64_t blocks = (job.elements + kThreads - 1) / kThreads;
  GuidanceEulerKernel<Type><<<static_cast<unsigned>(blocks < 65535 ? blocks : 65535), kThreads, 0, stream>>>(job);
}

}  // namespace
}  // namespace fresco::kernels

// Returns null, or CUDA's words for what went wrong. type: CudaElement of cuda_library.h.
extern "C" const char* fresco_cuda_guidance_euler(int32_t type, const fresco::kernels::GuidanceEulerJob* job,
                                                  void* stream) {
  using namespace fresco::kernels;
  const auto launch = type == 0 ? &Launch<Float32> : type == 1 ? &Launch<BFloat16> : &Launch<Float16>;
  if (job->elements > 0) launch(*job, static_cast<cudaStream_t>(stream));
  return LaunchError();
}
