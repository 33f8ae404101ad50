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

std::vector<std::string> AvailableDevices() {
  std::vector<std::string> devices;
  for (int i = 0; i < CudaDeviceCount(); ++i) devices.push_back(StrCat("cuda:", i));
  devices.emplace_back("cpu");
  return devices;
}

}  // namespace fresco
