// Products of codes on a GPU, by one of several kernels:
//
// - "row-wise": libtorch's _scaled_mm with a scale for each row, fast accumulation and the bias inside; bf16 results.
// - "row-wise fp16": the same in an fp16 model, without a detour by bf16.
// - "per-tensor": _scaled_mm with one scale, and the weights' scales and the bias in a pass of their own: where all
//   tokens have one scale, for sure. Fast where row-wise products are slow (before Hopper).
// - "sums": libtorch's _int_mm and our epilogue, of int8.
// - "cublaslt:HEX": an algorithm of cuBLASLt's (CublasLtAlgorithm); of int8 with our epilogue.
//
// Which of them is a matter of measuring (kernel_choice.h). Where nothing was measured: row-wise, or sums.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "pipeline/precision/device_kernels.h"
#include "pipeline/precision/kernel_choice.h"
#include "pipeline/precision/quantized_weight.h"
#include "pipeline/precision/scheme.h"

namespace fresco {

struct CodesProduct {
  at::Tensor codes;                     // [M, in], kFloat8_e4m3fn or kChar, contiguous
  at::Tensor scale;                     // [M], kFloat
  QuantizedWeight weight;               // [out, in]
  at::Tensor bias;                      // [out], any floating type, or undefined
  at::ScalarType type = at::kBFloat16;  // of the result: kBFloat16, kHalf or kFloat
  at::Tensor one;                       // UnitScale(), where scale has one value, M times; else undefined
};

// 1, [1] kFloat on `device`: what per-tensor products take for a weight's scale. To be made once, outside of recordings
// (GraphMaker), not for each product, which would be a launch more.
at::Tensor UnitScale(const at::Device& device);

// What such a product is, for the choice. `scheme`: kFp8 or kInt8.
struct ProductKind {
  LinearScheme scheme = LinearScheme::kFp8;
  at::ScalarType type = at::kBFloat16;
  int64_t in = 0, out = 0;
  bool bias = false, one_scale = false;
};
KernelTask ProductTask(const ProductKind& kind, int64_t rows);

// codes · weightᵀ · scales + bias, [M, out], in the product's type but for kFloat, where FP8's is kBFloat16. By the
// kernel that `kernels` knows to be the fastest, null: by what is taken without. Throws libtorch's exceptions.
at::Tensor MultiplyCodes(const CodesProduct& product, const DeviceKernels* kernels);

// By a kernel of that name; of another name, or where it does not take the product, by what is taken without a choice.
at::Tensor MultiplyCodesBy(const std::string& kernel, const CodesProduct& product, const DeviceKernels* kernels);

// Kernels that may take a task of ProductTask's, with random operands on `device`, each checked against the first,
// which is what is taken where nothing was measured. Empty where operands and result are too large for a measurement.
std::vector<KernelCandidate> ProductCandidates(const KernelTask& task, const at::Device& device,
                                               std::shared_ptr<const DeviceKernels> kernels);

}  // namespace fresco
