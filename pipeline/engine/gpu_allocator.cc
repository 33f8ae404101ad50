#include "pipeline/engine/gpu_allocator.h"

#include <c10/core/AllocatorConfig.h>
#include <dlfcn.h>

#include <cstdlib>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

// libtorch takes it for granted. Of the driver, since CUDA's runtime does not say; its header is not there where there
// is no toolkit.
bool HasVirtualMemory(int ordinal) {
  constexpr int kSupported = 102;  // CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
  using GetDevice = int (*)(int* device, int ordinal);
  using GetAttribute = int (*)(int* value, int attribute, int device);
  void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver == nullptr) return false;
  const auto get_device = reinterpret_cast<GetDevice>(dlsym(driver, "cuDeviceGet"));
  const auto get_attribute = reinterpret_cast<GetAttribute>(dlsym(driver, "cuDeviceGetAttribute"));
  int device = 0, supported = 0;
  const bool asked = get_device != nullptr && get_attribute != nullptr && get_device(&device, ordinal) == 0 &&
                     get_attribute(&supported, kSupported, device) == 0;
  dlclose(driver);  // CUDA's runtime holds it
  return asked && supported != 0;
}

}  // namespace

bool LeavesAllocatorToUs(const char* alloc_conf, const char* cuda_alloc_conf) {
  return alloc_conf == nullptr && cuda_alloc_conf == nullptr;
}

void GrowGpuSegments(const at::Device& device) {
  using Config = c10::CachingAllocator::AcceleratorAllocatorConfig;
  if (!LeavesAllocatorToUs(std::getenv("PYTORCH_ALLOC_CONF"), std::getenv("PYTORCH_CUDA_ALLOC_CONF"))) return;
  if (Config::use_expandable_segments() || !HasVirtualMemory(device.index())) return;
  AddAllocatorSetting("expandable_segments:True");
}

void AddAllocatorSetting(const std::string& setting) {
  const std::string known = c10::CachingAllocator::getAllocatorSettings();
  c10::CachingAllocator::setAllocatorSettings(known.empty() ? setting : StrCat(known, ",", setting));
}

}  // namespace fresco
