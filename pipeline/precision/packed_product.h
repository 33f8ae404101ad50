// Products of bf16 matrices on a CPU that multiplies bf16 in hardware, the right factor laid out as its instruction
// reads it: pairs of a column's neighbours, [k / 2][n][2]. oneDNN's matrix product lays its right factor out anew at
// every call; whoever makes that factor (codes that are expanded, a head's keys) lays it out right away.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>

#include <cstdint>

namespace fresco {

// Whether this processor, and the instruction set that oneDNN is limited to, have such products. The same at every
// call. Thread-safe.
bool HasPackedProducts();

// A thread's products; where HasPackedProducts. Not thread-safe.
class PackedProducts {
 public:
  struct Left {
    const c10::BFloat16* elements;
    int64_t stride;  // from row to row
  };
  struct Sums {
    float* elements;
    int64_t stride;
  };

  PackedProducts() = default;
  ~PackedProducts();
  PackedProducts(const PackedProducts&) = delete;
  PackedProducts& operator=(const PackedProducts&) = delete;

  // sums [m, n] = a [m, k] times b [k, n] (packed; k even), in fp32; or += that. An element's sum depends on its row
  // and column alone.
  void Multiply(int64_t m, int64_t n, int64_t k, Left a, const c10::BFloat16* b, Sums sums, bool add) const;
};

// result = x times codes^T, times scale, plus bias, rounded once: x [M, in] kBFloat16, E4M3 codes [out, in], scale and
// bias [out] kFloat (bias may be undefined), result [M, out] kBFloat16, all contiguous, `in` even. The codes are exact
// in bf16. Every `rows_at_once` rows are computed as if there were no others.
void MultiplyE4M3(const at::Tensor& x, int64_t rows_at_once, const at::Tensor& codes, const at::Tensor& scale,
                  const at::Tensor& bias, at::Tensor& result);

}  // namespace fresco
