// Guidance and Euler step of one job in one pass over memory: reads two velocities and the latent, writes the latent.
// Eager tensors take five passes and as many launches.
#include <cuda_runtime.h>

#include "pipeline/kernels/guidance_math.h"

namespace fresco::kernels {
namespace {

template <typename Type>
__global__ void GuidanceEulerKernel(int64_t elements, const typename Type::Storage* uncond,
                                    const typename Type::Storage* cond, typename Type::Storage* latent, float guidance,
                                    float sigma_delta) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements; i += stride) {
    float velocity = Type::Load(cond[i]);
    if (uncond != nullptr) velocity = Guided<Type>(Type::Load(uncond[i]), velocity, guidance);
    latent[i] = Type::Store(EulerStep<Type>(Type::Load(latent[i]), velocity, sigma_delta));
  }
}

template <typename Type>
void Launch(int64_t elements, const void* uncond, const void* cond, void* latent, float guidance, float sigma_delta,
            cudaStream_t stream) {
  using Storage = typename Type::Storage;
  constexpr int kThreads = 256;
  const int64_t blocks = (elements + kThreads - 1) / kThreads;
  GuidanceEulerKernel<Type><<<static_cast<unsigned>(blocks < 65535 ? blocks : 65535), kThreads, 0, stream>>>(
      elements, static_cast<const Storage*>(uncond), static_cast<const Storage*>(cond), static_cast<Storage*>(latent),
      guidance, sigma_delta);
}

}  // namespace
}  // namespace fresco::kernels

// Returns null, or CUDA's words for what went wrong. type: CudaElement of cuda_library.h.
extern "C" const char* fresco_cuda_guidance_euler(int32_t type, int64_t elements, const void* uncond, const void* cond,
                                                  void* latent, float guidance, float sigma_delta, void* stream) {
  using namespace fresco::kernels;
  const auto launch = type == 0 ? &Launch<Float32> : type == 1 ? &Launch<BFloat16> : &Launch<Float16>;
  if (elements > 0) launch(elements, uncond, cond, latent, guidance, sigma_delta, static_cast<cudaStream_t>(stream));
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
