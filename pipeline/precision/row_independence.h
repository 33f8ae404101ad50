// How a CPU's products of matrices add up.
#pragma once

#include <c10/core/ScalarType.h>

#include "pipeline/base/processor.h"

namespace fresco {

// Whether a row of a product of matrices, kFloat or kBFloat16, has the same bits however many rows there are, from
// Linear::kMinTokens on. True of oneDNN's and MKL's AVX-512 kernels. Those for AVX2, and oneDNN's for AMX where rows
// are wide (1,024 elements), add up in another order from some numbers of rows on (tests/pipeline/models, batch_test,
// on each; docs/facts/fp8.md, Batch invariance).
inline bool RowsAreIndependent(c10::ScalarType type) {
  if (type == c10::ScalarType::Float) return ProcessorHasAvx512();
  return ProcessorHasAvx512Bf16() && !ProcessorHasAmxBf16();
}

}  // namespace fresco
