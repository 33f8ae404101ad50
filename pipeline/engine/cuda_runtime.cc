#include "pipeline/engine/cuda_runtime.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <dlfcn.h>

#include <exception>
#include <string_view>

#include "pipeline/base/strings.h"
#include "pipeline/engine/load.h"

namespace fresco {
namespace {

absl::Status Open() {
  // Global and for good: its kernels and hooks register themselves with libtorch_cpu when it is loaded.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr) return absl::OkStatus();
  const char* const reason = dlerror();
  return absl::UnavailableError(StrCat("libtorch_cuda.so: ", reason == nullptr ? "cannot be loaded" : reason));
}

}  // namespace

absl::Status LoadCuda() {
  static const absl::Status* const status = new absl::Status(Open());
  return *status;
}

int CudaDeviceCount() {
  if (!LoadCuda().ok()) return 0;
  try {
    return at::detail::getCUDAHooks().deviceCount();
  } catch (const std::exception&) {  // a driver that is too old, or none
    return 0;
  }
}

int CudaCapability(int device) {
  if (!LoadCuda().ok()) return 0;
  // Of the CUDA runtime that came with libtorch_cuda; its header is not there where there is no toolkit.
  constexpr int kMajor = 75, kMinor = 76;  // cudaDevAttrComputeCapabilityMajor, …Minor
  using GetAttribute = int (*)(int* value, int attribute, int device);
  const auto get = reinterpret_cast<GetAttribute>(dlsym(RTLD_DEFAULT, "cudaDeviceGetAttribute"));
  int major = 0, minor = 0;
  if (get == nullptr || get(&major, kMajor, device) != 0 || get(&minor, kMinor, device) != 0) return 0;
  return 10 * major + minor;
}

std::vector<std::string> AvailableDevices() {
  std::vector<std::string> devices;
  for (int i = 0; i < CudaDeviceCount(); ++i) devices.push_back(StrCat("cuda:", i));
  devices.emplace_back("cpu");
  return devices;
}

}  // namespace fresco
