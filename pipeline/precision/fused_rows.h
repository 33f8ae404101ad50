// What lies between a transformer's linears, each as one pass over its tokens: norm and modulation, GELU, gates, norms
// of heads, and the codes that the next linear multiplies.
//
// On a GPU these are the kernels of libfresco_cuda.so, on the current stream, with fp32 arithmetic between an element
// read and an element or code written. Elsewhere (on a CPU, in a build without the library, for other types and widths)
// they are libtorch's operations, one after the other, each rounding to its tensor's type, and on a CPU the row kernels
// for the codes. All functions are thread-safe and throw libtorch's exceptions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "pipeline/precision/scheme.h"

namespace fresco {

// Whether these tokens [..., width] are computed by kernels.
bool HasRowKernels(const at::Tensor& x);

// Samples of different lengths in one tensor of tokens [1, M, D], one after the other; gates and modulations are then
// [samples, 1, D] all the same. On a CPU a sample's results are those that it has by itself, bit for bit.
struct PackedRows {
  std::vector<int64_t> lengths;  // of the samples, in tokens
  at::Tensor sample_of_row;      // [M] kInt, on their device: whose each token is; only kernels read it
};

// How tokens become codes.
struct RowQuantization {
  LinearScheme scheme = LinearScheme::kFp8;  // kFp8 or kInt8
  // One scale for all tokens, positive and finite. Nothing: each has its own, its largest magnitude over the type's
  // largest value.
  std::optional<float> fixed_scale;
  bool guard = true;      // with a fixed scale: a token that goes beyond it has its own instead
  at::Tensor multiplier;  // [width] kFloat: of each column, before all else; undefined: none
  bool count_saturated = false;
  at::Tensor counter;  // [1] kLong, on the tokens' device: what saturates is added to it; undefined: a new one, at 0
};

// Tokens as codes. A token with a NaN or an infinity has the scale NaN.
struct QuantizedRows {
  at::Tensor codes;                   // [B, N, width], kFloat8_e4m3fn or kChar, contiguous
  at::Tensor scale;                   // [B * N], kFloat
  at::Tensor saturated;               // the counter; undefined where it was not asked for
  at::ScalarType dtype = at::kFloat;  // of the tokens
};

// x [B, N, width]: kFloat, kBFloat16 or kHalf; each sample's tokens adjoin.
QuantizedRows QuantizeRows(const at::Tensor& x, const RowQuantization& quantization);
QuantizedRows GeluQuantize(const at::Tensor& x, const RowQuantization& quantization);  // the tanh formula

// x, or what x will be once a branch is added: x + gate * branch.
struct Residual {
  at::Tensor x;                        // [B, N, D]
  at::Tensor gate, branch;             // [B, 1, D] and as x; undefined: there is none
  const PackedRows* packed = nullptr;  // whose tokens these are, where samples differ in length; outlives it
};

// With its branch, which is defined, added.
at::Tensor GateResidual(const Residual& x);

// LayerNorm without affine part, then a modulation: LN(x) * (1 + scale) + shift.
struct ScaleShift {
  at::Tensor scale, shift;  // [B, 1, D]
  double eps = 1e-6;
};

// Of x with its branch added, which it is afterwards: then x->x is the sum, and x->branch undefined. The modulation is
// of the samples of x.
at::Tensor NormModulate(Residual* x, const ScaleShift& modulation);
QuantizedRows NormModulateQuantize(Residual* x, const ScaleShift& modulation, const RowQuantization& quantization);

// RMS norms of q's and k's heads.
struct HeadNorms {
  at::Tensor q, k;  // [head_dim], or undefined: left as they are
  double eps = 1e-6;
};

// Whether heads of these queries, keys and values, [B, N, 3 · heads · head_dim], are normalised by a kernel.
bool HasHeadKernels(const at::Tensor& qkv, int64_t heads);

// qkv [B, N, 3 · heads · head_dim], contiguous → tokens [first, first + N) of `out` [B, ≥ first + N, 3 · heads ·
// head_dim], contiguous: q and k normalised head by head, v as it is. out may be qkv. Only where HasHeadKernels.
void NormHeads(const at::Tensor& qkv, int64_t heads, const HeadNorms& norms, const at::Tensor& out, int64_t first);
// The same of tokens [B, N, ...] that become tokens targets [B * N] (kInt, on their device) of out [1, M, ...], which
// is not qkv.
void NormHeads(const at::Tensor& qkv, int64_t heads, const HeadNorms& norms, const at::Tensor& out,
               const at::Tensor& targets);

// sums * (row_scale * column_scale) + bias, in `dtype`. sums [M, N] kInt, row_scale [M], column_scale [N], bias [N] or
// undefined.
at::Tensor DequantizeSums(const at::Tensor& sums, const at::Tensor& row_scale, const at::Tensor& column_scale,
                          const at::Tensor& bias, at::ScalarType dtype);

}  // namespace fresco
