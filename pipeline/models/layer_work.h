// The models' layers by name, as the profiler is told of them (layer_scope.h): what they compute, and how much it is.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <initializer_list>

#include "pipeline/models/layers.h"
#include "pipeline/precision/fused_rows.h"
#include "pipeline/precision/layer_scope.h"

namespace fresco {

// A product of x [.., in] with a linear's weight: 2 · rows · in · out, whatever rows a kernel adds. `dtype` is the
// scheme where it is quantised ("fp8", "fp8-weight-only"), of several the first one's.
LayerWork LinearWork(const Linear& linear, const at::Tensor& x);
// Of codes that a kernel has made of x's rows already.
LayerWork CodesWork(const Linear& linear, const QuantizedRows& rows);
// Both products, q k^T and the mixture of v: q [B, heads, N, d], k and v [B, heads, M, d]. `fp8`: Fp8Attention's.
LayerWork AttentionWork(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool fp8 = false);
// x [B, in, H, W] convolved by k × k kernels, `out` of them, to pictures smaller by `stride`; weight_bytes of them all.
struct ConvShape {
  int64_t out = 0, kernel = 1, stride = 1, weight_bytes = 0;
};
LayerWork ConvWork(const ConvShape& conv, const at::Tensor& x);
// What reads its inputs, of which undefined ones count nothing, and writes so many bytes: norms, activations, sums. Its
// dtype is the first one's.
LayerWork ElementwiseWork(std::initializer_list<at::Tensor> inputs, int64_t written);
int64_t BytesOf(const at::Tensor& tensor);  // 0 of an undefined one
// NormModulate's, of x as it is before; NormModulateQuantize's where `codes` says how tokens become codes.
LayerWork NormModulateWork(const Residual& x, const ScaleShift& modulation, const RowQuantization* codes = nullptr);
// An activation's that writes as wide as x is, in place or not; GeluQuantize's where `codes` says how.
LayerWork ActivationWork(const at::Tensor& x, const RowQuantization* codes = nullptr);

// Rows looked up in a table [rows, D].
LayerWork RowWork(const at::Tensor& table, const at::Tensor& ids);

// Linear::Tokens and Linear::Rows in a scope of that name.
at::Tensor TokensOf(const char* name, const Linear& linear, const at::Tensor& x);
at::Tensor RowsOf(const char* name, const Linear& linear, const at::Tensor& x);

}  // namespace fresco
