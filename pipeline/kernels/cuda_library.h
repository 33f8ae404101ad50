// The CUDA kernels, in a library of their own that is loaded when a GPU is used: nothing else links CUDA.
// Torch-free; pointers are to device memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "pipeline/kernels/attention8_jobs.h"
#include "pipeline/kernels/group_norm_job.h"
#include "pipeline/kernels/guidance_math.h"
#include "pipeline/kernels/row_jobs.h"

namespace fresco {

enum class CudaElement : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// Immutable after load; thread-safe.
class CudaLibrary {
 public:
  // NOT_FOUND if there is no such file (this build has no CUDA kernels), FAILED_PRECONDITION if it cannot be loaded
  // here.
  static absl::StatusOr<std::shared_ptr<const CudaLibrary>> Load(const std::string& path);
  // Beside the running program: ../lib/libfresco_cuda.so of the folder it is in.
  static std::string DefaultPath();

  ~CudaLibrary();
  CudaLibrary(const CudaLibrary&) = delete;
  CudaLibrary& operator=(const CudaLibrary&) = delete;

  // Enqueues the update of one image on `stream` (a cudaStream_t), on the current device; does not wait. Of any type.
  // INTERNAL with CUDA's words if the launch fails.
  absl::Status GuidanceEuler(CudaElement type, const kernels::GuidanceEulerJob& job, void* stream) const;

  // The row kernels (row_jobs.h says what each computes), of kBFloat16 or kFloat16 elements: enqueued on `stream`, on
  // the current device. INVALID_ARGUMENT for another type, or a job whose shape no kernel takes, else as above.
  absl::Status NormModulate(CudaElement type, const kernels::NormModulateJob& job, void* stream) const;
  absl::Status Rows(CudaElement type, const kernels::RowJob& job, void* stream) const;
  absl::Status GateResidual(CudaElement type, const kernels::GateResidualJob& job, void* stream) const;
  absl::Status NormHeads(CudaElement type, const kernels::NormHeadsJob& job, void* stream) const;
  absl::Status Dequantize(CudaElement type, const kernels::DequantizeJob& job, void* stream) const;
  // group_norm_job.h's, likewise.
  absl::Status GroupNorm(CudaElement type, const kernels::GroupNormJob& job, void* stream) const;
  absl::Status AddImages(CudaElement type, const kernels::AddImagesJob& job, void* stream) const;

  // FP8 attention (attention8_jobs.h): heads into codes, and then the attention. As above; INTERNAL, saying so, on a
  // GPU below compute capability 8.9.
  absl::Status EncodeHeads(CudaElement type, const kernels::EncodeHeadsJob& job, void* stream) const;
  absl::Status Attention8(CudaElement type, const kernels::Attention8Job& job, void* stream) const;

 private:
  // Returns null, or CUDA's words for what went wrong.
  template <typename Job>
  using RowKernel = const char* (*)(int32_t type, const Job* job, void* stream);

  CudaLibrary() = default;
  absl::Status FindKernels(const std::string& path);
  template <typename Job>
  static absl::Status Run(const char* name, RowKernel<Job> kernel, CudaElement type, const Job& job, void* stream);

  void* handle_ = nullptr;
  RowKernel<kernels::GuidanceEulerJob> guidance_euler_ = nullptr;
  RowKernel<kernels::NormModulateJob> norm_modulate_ = nullptr;
  RowKernel<kernels::RowJob> rows_ = nullptr;
  RowKernel<kernels::GateResidualJob> gate_residual_ = nullptr;
  RowKernel<kernels::NormHeadsJob> norm_heads_ = nullptr;
  RowKernel<kernels::DequantizeJob> dequantize_ = nullptr;
  RowKernel<kernels::GroupNormJob> group_norm_ = nullptr;
  RowKernel<kernels::AddImagesJob> add_images_ = nullptr;
  RowKernel<kernels::EncodeHeadsJob> encode_heads_ = nullptr;
  RowKernel<kernels::Attention8Job> attention8_ = nullptr;
};

}  // namespace fresco
