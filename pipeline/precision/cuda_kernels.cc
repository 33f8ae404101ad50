#include "pipeline/precision/cuda_kernels.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "pipeline/kernels/cuda_library.h"
#include "pipeline/precision/layer_scope.h"

namespace fresco {
namespace {

const absl::StatusOr<std::shared_ptr<const CudaLibrary>>& Library() {
  static const auto* const library =
      new absl::StatusOr<std::shared_ptr<const CudaLibrary>>(CudaLibrary::Load(CudaLibrary::DefaultPath()));
  return *library;
}

}  // namespace

absl::Status CudaKernelsStatus() {
  return Library().status();
}

bool IsHalfWide(at::ScalarType type) {
  return type == at::kBFloat16 || type == at::kHalf;
}

CudaElement ElementOf(at::ScalarType type) {
  if (type == at::kFloat) return CudaElement::kFloat32;
  return type == at::kHalf ? CudaElement::kFloat16 : CudaElement::kBFloat16;
}

void LaunchBeside(const at::Tensor& x, const char* name,
                  const std::function<absl::Status(const CudaLibrary&, void* stream)>& launch) {
  const c10::DeviceGuard guard(x.device());
  const KernelScope scope(name);
  const c10::impl::VirtualGuardImpl cuda(x.device().type());
  const absl::Status status = launch(**Library(), cuda.getStreamNativeHandle(cuda.getStream(x.device())));
  TORCH_CHECK(status.ok(), std::string(status.message()));
}

}  // namespace fresco
