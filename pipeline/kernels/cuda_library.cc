#include "pipeline/kernels/cuda_library.h"

#include <dlfcn.h>

#include <bit>
#include <filesystem>
#include <limits>
#include <system_error>
#include <type_traits>

#include "absl/strings/str_cat.h"

namespace fresco {
namespace {

absl::Status FindSymbol(void* library, const std::string& path, const char* name, auto* function) {
  void* const symbol = dlsym(library, name);
  if (symbol == nullptr) return absl::FailedPreconditionError(absl::StrCat(path, ": ", dlerror()));
  *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(symbol);
  return absl::OkStatus();
}

bool Takes(const kernels::RowShape& shape) {
  return shape.rows >= 0 && shape.rows <= std::numeric_limits<int32_t>::max() && shape.rows_per_sample > 0 &&
         shape.width > 0 && shape.width % kernels::kVector == 0 && shape.width <= kernels::kMaxRowWidth;
}
bool Takes(const kernels::NormHeadsJob& job) {
  const uint32_t lanes = static_cast<uint32_t>(job.head_dim / kernels::kVector);
  return job.rows >= 0 && job.rows_per_sample > 0 && job.heads > 0 && job.head_dim % kernels::kVector == 0 &&
         std::has_single_bit(lanes) && lanes <= 32;
}
bool Takes(const kernels::GroupNormJob& job) {
  return job.pixels > 0 && job.runs > 0 && job.runs <= job.pixels && job.channels > 0 && job.groups > 0 &&
         job.channels % kernels::kVector == 0 && job.channels % job.groups == 0;
}
bool Takes(const kernels::AddImagesJob& job) {
  return job.pixels > 0 && job.channels > 0 && job.channels % kernels::kVector == 0;
}
// A grid has a row of blocks for each head.
bool TakesHeads(int64_t samples, int64_t tokens, int32_t heads) {
  return samples > 0 && heads > 0 && samples * heads <= 65535 && tokens > 0 &&
         tokens <= std::numeric_limits<int32_t>::max();
}
bool Takes(const kernels::EncodeHeadsJob& job) {
  for (const kernels::HeadRows& rows : {job.q, job.k, job.v})
    if (rows.sample % kernels::kVector != 0 || rows.head % kernels::kVector != 0 || rows.token % kernels::kVector != 0)
      return false;
  return TakesHeads(job.samples, job.tokens, job.heads);
}
bool Takes(const kernels::Attention8Job& job) {
  return TakesHeads(job.samples, job.tokens, job.heads) && job.scale > 0;
}
template <typename Job>
bool Takes(const Job& job) {
  return Takes(job.shape);
}

}  // namespace

std::string CudaLibrary::DefaultPath() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return (program.parent_path().parent_path() / "lib" / "libfresco_cuda.so").string();
}

absl::StatusOr<std::shared_ptr<const CudaLibrary>> CudaLibrary::Load(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    return absl::NotFoundError(absl::StrCat(path, ": this build has no CUDA kernels"));
  std::shared_ptr<CudaLibrary> library(new CudaLibrary);
  library->handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library->handle_ == nullptr) return absl::FailedPreconditionError(absl::StrCat(path, ": ", dlerror()));
  if (absl::Status status = library->FindKernels(path); !status.ok()) return status;
  return library;
}

absl::Status CudaLibrary::FindKernels(const std::string& path) {
  int64_t (*jobs_layout)() = nullptr;
  int64_t (*image_jobs_layout)() = nullptr;
  int64_t (*attention8_layout)() = nullptr;
  absl::Status found = FindSymbol(handle_, path, "fresco_cuda_jobs_layout", &jobs_layout);
  found.Update(FindSymbol(handle_, path, "fresco_cuda_image_jobs_layout", &image_jobs_layout));
  found.Update(FindSymbol(handle_, path, "fresco_cuda_attention8_layout", &attention8_layout));
  if (!found.ok()) return found;
  if (jobs_layout() != kernels::kJobsLayout || image_jobs_layout() != kernels::kImageJobsLayout ||
      attention8_layout() != kernels::kAttention8Layout)
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": built from another version of Fresco than this program"));
  absl::Status status = FindSymbol(handle_, path, "fresco_cuda_guidance_euler", &guidance_euler_);
  status.Update(FindSymbol(handle_, path, "fresco_cuda_norm_modulate", &norm_modulate_));
  status.Update(FindSymbol(handle_, path, "fresco_cuda_rows", &rows_));
  status.Update(FindSymbol(handle_, path, "fresco_cuda_gate_residual", &gate_residual_));
  status.Update(FindSymbol(handle_, path, "fresco_cuda_norm_heads", &norm_heads_));
  status.Update(FindSymbol(handle_, path, "fresco_cuda_dequantize", &dequantize_));
  status.Update(FindSymbol(handle_, path, "fresco_cuda_group_norm", &group_norm_));
  status.Update(FindSymbol(handle_, path, "fresco_cuda_add_images", &add_images_));
  status.Update(FindSymbol(handle_, path, "fresco_cuda_encode_heads", &encode_heads_));
  status.Update(FindSymbol(handle_, path, "fresco_cuda_attention8", &attention8_));
  return status;
}

CudaLibrary::~CudaLibrary() {
  if (handle_ != nullptr) dlclose(handle_);
}

absl::Status CudaLibrary::GuidanceEuler(CudaElement type, const kernels::GuidanceEulerJob& job, void* stream) const {
  const char* const error = guidance_euler_(static_cast<int32_t>(type), &job, stream);
  if (error != nullptr) return absl::InternalError(absl::StrCat("CUDA guidance_euler: ", error));
  return absl::OkStatus();
}

template <typename Job>
absl::Status CudaLibrary::Run(const char* name, RowKernel<Job> kernel, CudaElement type, const Job& job, void* stream) {
  if (type == CudaElement::kFloat32 || !Takes(job))
    return absl::InvalidArgumentError(absl::StrCat("CUDA ", name, ": no kernel takes these elements or this shape"));
  const char* const error = kernel(static_cast<int32_t>(type), &job, stream);
  if (error != nullptr) return absl::InternalError(absl::StrCat("CUDA ", name, ": ", error));
  return absl::OkStatus();
}

absl::Status CudaLibrary::NormModulate(CudaElement type, const kernels::NormModulateJob& job, void* stream) const {
  return Run("norm_modulate", norm_modulate_, type, job, stream);
}

absl::Status CudaLibrary::Rows(CudaElement type, const kernels::RowJob& job, void* stream) const {
  return Run("rows", rows_, type, job, stream);
}

absl::Status CudaLibrary::GateResidual(CudaElement type, const kernels::GateResidualJob& job, void* stream) const {
  return Run("gate_residual", gate_residual_, type, job, stream);
}

absl::Status CudaLibrary::NormHeads(CudaElement type, const kernels::NormHeadsJob& job, void* stream) const {
  return Run("norm_heads", norm_heads_, type, job, stream);
}

absl::Status CudaLibrary::Dequantize(CudaElement type, const kernels::DequantizeJob& job, void* stream) const {
  return Run("dequantize", dequantize_, type, job, stream);
}

absl::Status CudaLibrary::GroupNorm(CudaElement type, const kernels::GroupNormJob& job, void* stream) const {
  return Run("group_norm", group_norm_, type, job, stream);
}

absl::Status CudaLibrary::AddImages(CudaElement type, const kernels::AddImagesJob& job, void* stream) const {
  return Run("add_images", add_images_, type, job, stream);
}

absl::Status CudaLibrary::EncodeHeads(CudaElement type, const kernels::EncodeHeadsJob& job, void* stream) const {
  return Run("encode_heads", encode_heads_, type, job, stream);
}

absl::Status CudaLibrary::Attention8(CudaElement type, const kernels::Attention8Job& job, void* stream) const {
  return Run("attention8", attention8_, type, job, stream);
}

}  // namespace fresco
