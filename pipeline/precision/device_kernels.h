// What a model's layers ask, on a GPU, for the kernels to take.
#pragma once

#include <memory>

#include "pipeline/kernels/cublas_lt.h"
#include "pipeline/precision/kernel_choice.h"

namespace fresco {

// Of one device; thread-safe.
struct DeviceKernels {
  KernelChoices choices;
  const std::shared_ptr<const CublasLt> cublas_lt =
      nullptr;  // for algorithms of its own choice; null: libtorch's alone
};

}  // namespace fresco
