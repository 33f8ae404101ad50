#include "pipeline/kernels/cuda_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace fresco {

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
  void* symbol = dlsym(library->handle_, "fresco_cuda_guidance_euler");
  if (symbol == nullptr) return absl::FailedPreconditionError(absl::StrCat(path, ": ", dlerror()));
  library->guidance_euler_ = reinterpret_cast<decltype(library->guidance_euler_)>(symbol);
  return library;
}

CudaLibrary::~CudaLibrary() {
  if (handle_ != nullptr) dlclose(handle_);
}

absl::Status CudaLibrary::GuidanceEuler(CudaElement type, int64_t elements, const GuidanceEulerJob& job,
                                        void* stream) const {
  const char* error = guidance_euler_(static_cast<int32_t>(type), elements, job.uncond, job.cond, job.latent,
                                      job.guidance, job.sigma_delta, stream);
  if (error != nullptr) return absl::InternalError(absl::StrCat("CUDA guidance_euler: ", error));
  return absl::OkStatus();
}

}  // namespace fresco
