#include "pipeline/precision/packed_product.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "pipeline/base/ceiling.h"
#include "pipeline/base/processor.h"
#include "pipeline/kernels/cpu/pack_kernel.h"
#include "pipeline/kernels/cpu/row_kernels.h"

namespace fresco {
namespace {

// A block of a product, so that what it reads again and again stays in a core's first two caches: 128 columns of 768
// terms are 192 KiB of bf16. With all of 6144 at once, a third of the speed was lost.
constexpr int64_t kColumns = 128;
constexpr int64_t kRows = 128;
constexpr int64_t kMostTerms = 768;
constexpr int64_t kPackedTerms = 128;  // of which codes are packed at a time: 16 KiB, which the first cache holds

// 1 × 3 + 2 × 4 and 1 × 5 + 2 × 6, as oneDNN computes them.
bool MultipliesRight() {
  const c10::BFloat16 a[] = {1, 2}, b[] = {3, 4, 5, 6};
  float sums[] = {0, 0};
  try {
    PackedProducts().Multiply(1, 2, 2, {a, 2}, b, {sums, 2}, /*add=*/false);
  } catch (const c10::Error&) {
    return false;  // the instruction set that oneDNN may use has none
  }
  return sums[0] == 11 && sums[1] == 17;
}

// Codes of `columns` columns, terms [begin, begin + terms), as packed bf16.
class PackedCodes {
 public:
  explicit PackedCodes(int64_t most_terms) : values_(static_cast<size_t>(kColumns * most_terms)) {}

  // `codes`: the first column's, from the first term on; `stride` to the next column's.
  void Pack(const uint8_t* codes, int64_t stride, int64_t columns, int64_t terms) {
    uint8_t pairs[kColumns * kPackedTerms];
    auto* to = values_.data();
    for (int64_t begin = 0; begin < terms; begin += kPackedTerms) {
      const int64_t count = std::min(kPackedTerms, terms - begin);
      kernels::PackPairs(codes + begin, static_cast<size_t>(stride), static_cast<size_t>(columns),
                         static_cast<size_t>(count), pairs);
      const auto bytes = static_cast<size_t>(columns * count);
      kernels::ExpandE4M3(std::span<const uint8_t>(pairs, bytes), to);
      to += bytes;
    }
  }
  const c10::BFloat16* values() const { return reinterpret_cast<const c10::BFloat16*>(values_.data()); }

 private:
  std::vector<kernels::BFloat16Bits> values_;
};

// The factors and the result of MultiplyE4M3.
struct Factors {
  const c10::BFloat16* x;
  const uint8_t* codes;
  const float* scale;
  const float* bias;  // or null
  kernels::BFloat16Bits* result;
  int64_t rows, rows_at_once, in, out;
};

// A thread's part of MultiplyE4M3: some columns of it.
class E4M3Columns {
 public:
  explicit E4M3Columns(const Factors& factors)
      : f_(factors),
        parts_(CeilingOf(f_.in, kMostTerms)),
        terms_(2 * CeilingOf(f_.in, 2 * parts_)),
        sums_(kRows * kColumns) {
    for (int64_t part = 0; part < parts_; ++part) codes_.emplace_back(terms_);
  }

  void Compute(int64_t first_column) {
    const int64_t columns = std::min(kColumns, f_.out - first_column);
    for (int64_t part = 0; part < parts_; ++part)
      codes_[part].Pack(f_.codes + first_column * f_.in + part * terms_, f_.in, columns, TermsOf(part));
    for (int64_t sample = 0; sample < f_.rows; sample += f_.rows_at_once) {
      const int64_t end = std::min(sample + f_.rows_at_once, f_.rows);
      for (int64_t row = sample; row < end; row += kRows)
        ComputeBlock(row, std::min(kRows, end - row), first_column, columns);
    }
  }

 private:
  int64_t TermsOf(int64_t part) const { return std::min(terms_, f_.in - part * terms_); }

  void ComputeBlock(int64_t first_row, int64_t rows, int64_t first_column, int64_t columns) {
    for (int64_t part = 0; part < parts_; ++part)
      products_.Multiply(rows, columns, TermsOf(part), {f_.x + first_row * f_.in + part * terms_, f_.in},
                         codes_[part].values(), {sums_.data(), columns}, /*add=*/part > 0);
    const float* bias = f_.bias == nullptr ? nullptr : f_.bias + first_column;
    for (int64_t row = 0; row < rows; ++row)
      kernels::ScaleColumns({sums_.data() + row * columns, static_cast<size_t>(columns)}, 1, f_.scale + first_column,
                            bias, f_.result + (first_row + row) * f_.out + first_column);
  }

  const Factors& f_;
  const int64_t parts_, terms_;  // into how many parts of how many terms the sums are cut
  std::vector<PackedCodes> codes_;
  std::vector<float> sums_;
  const PackedProducts products_;
};

}  // namespace

bool HasPackedProducts() {
  static const bool has = ProcessorHasAvx512Bf16() && MultipliesRight();
  return has;
}

PackedProducts::~PackedProducts() {
  at::native::cpublas::brgemm_release();
}

void PackedProducts::Multiply(int64_t m, int64_t n, int64_t k, Left a, const c10::BFloat16* b, Sums sums,
                              bool add) const {
  at::native::cpublas::brgemm(m, n, k, a.stride, /*ld_b=*/n, sums.stride, add, a.elements, b, sums.elements,
                              /*is_vnni=*/true);
}

void MultiplyE4M3(const at::Tensor& x, int64_t rows_at_once, const at::Tensor& codes, const at::Tensor& scale,
                  const at::Tensor& bias, at::Tensor& result) {
  const Factors factors{.x = x.const_data_ptr<c10::BFloat16>(),
                        .codes = static_cast<const uint8_t*>(codes.const_data_ptr()),
                        .scale = scale.const_data_ptr<float>(),
                        .bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr,
                        .result = static_cast<kernels::BFloat16Bits*>(result.mutable_data_ptr()),
                        .rows = x.size(0),
                        .rows_at_once = rows_at_once,
                        .in = x.size(1),
                        .out = codes.size(0)};
  at::parallel_for(0, CeilingOf(factors.out, kColumns), 1, [&](int64_t begin, int64_t end) {
    E4M3Columns columns(factors);
    for (int64_t block = begin; block < end; ++block) columns.Compute(block * kColumns);
  });
}

}  // namespace fresco
