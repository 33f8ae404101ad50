#include "pipeline/models/cpu_attention.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "pipeline/base/ceiling.h"
#include "pipeline/kernels/cpu/row_kernels.h"
#include "pipeline/kernels/cpu/softmax_kernel.h"
#include "pipeline/precision/layer_scope.h"
#include "pipeline/precision/packed_product.h"

namespace fresco {
namespace {

using Element = c10::BFloat16;
using Bits = kernels::BFloat16Bits;

constexpr int64_t kMultiple = 32;            // tokens are filled up to it: whole vectors in every product
constexpr int64_t kScoreBytes = 384 * 1024;  // of the rows of scores at a time, about: they stay in the second cache
constexpr int64_t kLeastRows = 16, kMostRows = 64;

// Rows of a head, `stride` apart.
struct Rows {
  const Element* elements;
  int64_t stride;
  const Element* row(int64_t i) const { return elements + i * stride; }
};

Rows HeadOf(const at::Tensor& x, int64_t sample, int64_t head) {
  return {x.const_data_ptr<Element>() + sample * x.stride(0) + head * x.stride(1), x.stride(2)};
}

// One head after another, on one thread.
class HeadAttention {
 public:
  HeadAttention(int64_t tokens, int64_t width, float scale)
      : tokens_(tokens),
        filled_(CeilingOf(tokens, kMultiple) * kMultiple),
        width_(width),
        scale_(scale),
        rows_at_once_(std::clamp(kScoreBytes / (filled_ * int64_t{sizeof(float)}) / kLeastRows * kLeastRows, kLeastRows,
                                 kMostRows)),
        keys_(static_cast<size_t>(filled_ * width)),
        values_(static_cast<size_t>(filled_ * width)),
        scores_(static_cast<size_t>(rows_at_once_ * filled_)),
        weights_(static_cast<size_t>(rows_at_once_ * filled_)),
        sums_(static_cast<size_t>(rows_at_once_ * width)),
        ones_(static_cast<size_t>(width), 1.0f) {}

  // Keys k and values v, `tokens` each.
  void Pack(Rows k, Rows v) {
    for (int64_t token = 0; token < tokens_; ++token) {
      const Element *key = k.row(token), *value = v.row(token);
      for (int64_t i = 0; i < width_; i += 2)
        memcpy(keys_.data() + i * filled_ + 2 * token, key + i, 2 * sizeof(Element));
      Element* pair = values_.data() + token / 2 * 2 * width_ + token % 2;
      for (int64_t i = 0; i < width_; ++i) pair[2 * i] = value[i];
    }
  }

  // The rows of q, `count` of them; results go to `out`, rows `out_stride` apart.
  void Compute(Rows q, int64_t count, Bits* out, int64_t out_stride) {
    for (int64_t begin = 0; begin < count; begin += rows_at_once_) {
      const int64_t rows = std::min(rows_at_once_, count - begin);
      products_.Multiply(rows, filled_, width_, {q.row(begin), q.stride}, keys_.data(), {scores_.data(), filled_},
                         /*add=*/false);
      float totals[kMostRows];
      for (int64_t row = 0; row < rows; ++row)
        totals[row] = kernels::SoftmaxWeights({scores_.data() + row * filled_, static_cast<size_t>(tokens_)}, scale_,
                                              reinterpret_cast<Bits*>(weights_.data() + row * filled_));
      products_.Multiply(rows, width_, filled_, {weights_.data(), filled_}, values_.data(), {sums_.data(), width_},
                         /*add=*/false);
      for (int64_t row = 0; row < rows; ++row)
        kernels::ScaleColumns({sums_.data() + row * width_, static_cast<size_t>(width_)}, 1 / totals[row], ones_.data(),
                              /*bias=*/nullptr, out + (begin + row) * out_stride);
    }
  }

 private:
  const int64_t tokens_, filled_, width_;
  const float scale_;
  const int64_t rows_at_once_;
  // Behind the tokens all are zero, and stay so.
  std::vector<Element> keys_;    // packed [width / 2][filled][2]
  std::vector<Element> values_;  // packed [filled / 2][width][2]
  std::vector<float> scores_;    // [rows, filled]
  std::vector<Element> weights_;
  std::vector<float> sums_;  // [rows, width]
  const std::vector<float> ones_;
  const PackedProducts products_;
};

}  // namespace

bool AttentionOnCpuTakes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  for (const at::Tensor* x : {&q, &k, &v})
    if (!x->is_cpu() || x->scalar_type() != at::kBFloat16 || x->stride(3) != 1) return false;
  return q.size(3) % 2 == 0 && q.size(2) > 0 && k.size(2) > 0 && HasPackedProducts();
}

at::Tensor AttentionOnCpu(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  const KernelScope scope("fresco::attention");
  const int64_t samples = q.size(0), heads = q.size(1), count = q.size(2), width = q.size(3);
  at::Tensor result = at::empty({samples, count, heads * width}, q.options());
  auto* out = static_cast<Bits*>(result.mutable_data_ptr());
  at::parallel_for(0, samples * heads, 1, [&](int64_t begin, int64_t end) {
    HeadAttention attention(k.size(2), width, static_cast<float>(scale));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / heads, head = i % heads;
      attention.Pack(HeadOf(k, sample, head), HeadOf(v, sample, head));
      attention.Compute(HeadOf(q, sample, head), count, out + sample * count * heads * width + head * width,
                        heads * width);
    }
  });
  return result;
}

}  // namespace fresco
