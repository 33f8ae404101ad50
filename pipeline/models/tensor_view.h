// A checkpoint's tensors as libtorch's.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include "pipeline/checkpoint/dtype.h"
#include "pipeline/checkpoint/safetensors.h"

namespace fresco {

at::ScalarType ToScalarType(DType dtype);

// On the host: the file's own memory where it is aligned to an element (read-only: writing to it faults; it stays
// mapped as long as the tensor lives), else a copy.
at::Tensor ToTensor(const TensorView& view);

}  // namespace fresco
