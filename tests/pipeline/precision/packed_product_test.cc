#include "pipeline/precision/packed_product.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <mutex>
#include <set>
#include <thread>

namespace fresco {
namespace {

class PackedProduct : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasPackedProducts()) GTEST_SKIP() << "no bf16 products in this processor";
  }

  // x [M, in] and codes [out, in] of E4M3.
  at::Tensor Multiply(const at::Tensor& x, int64_t rows_at_once, const at::Tensor& codes) const {
    at::Tensor result = at::full({x.size(0), codes.size(0)}, std::nan(""), at::kBFloat16);
    MultiplyE4M3(x, rows_at_once, codes, scale_.narrow(0, 0, codes.size(0)), bias_.narrow(0, 0, codes.size(0)), result);
    return result;
  }
  static at::Tensor Codes(int64_t out, int64_t in) { return (at::randn({out, in}) * 50).to(at::kFloat8_e4m3fn); }

  const c10::InferenceMode inference_;
  const at::Tensor scale_ = at::rand({300}) + 0.01, bias_ = at::randn({300});
};

// In double, over shapes that end in the middle of every block that the product is computed in.
TEST_F(PackedProduct, IsTheProductOfTheValuesOfTheCodes) {
  for (const int64_t rows : {1, 3, 128, 150}) {
    for (const int64_t out : {1, 16, 64, 101, 300}) {
      for (const int64_t in : {2, 64, 130, 1536, 1538, 4096}) {
        const at::Tensor x = at::randn({rows, in}, at::kBFloat16), codes = Codes(out, in);
        const at::Tensor values = codes.to(at::kFloat).to(at::kDouble) * scale_.narrow(0, 0, out).unsqueeze(1);
        const at::Tensor bias = bias_.narrow(0, 0, out);
        const at::Tensor expected = at::matmul(x.to(at::kDouble), values.t()) + bias;
        const at::Tensor magnitude = at::matmul(x.to(at::kDouble).abs(), values.abs().t()) + bias.abs();
        const at::Tensor error = (Multiply(x, rows, codes).to(at::kDouble) - expected).abs();
        // Sums in fp32, then one rounding to bf16.
        const at::Tensor bound = magnitude * 8 * 0x1p-24 + expected.abs() * 0x1p-8;
        EXPECT_TRUE(error.le(bound).all().item<bool>()) << rows << " × " << in << " × " << out;
      }
    }
  }
}

TEST_F(PackedProduct, ASampleIsTheSameInAnyBatchByAnyNumberOfThreads) {
  const int before = at::get_num_threads();
  const at::Tensor x = at::randn({6 * 77, 200}, at::kBFloat16), codes = Codes(300, 200);
  at::set_num_threads(1);
  std::vector<at::Tensor> alone;
  for (int64_t i = 0; i < 6; ++i) alone.push_back(Multiply(x.narrow(0, 77 * i, 77), 77, codes));
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    EXPECT_TRUE(at::equal(Multiply(x, 77, codes), at::cat(alone))) << threads;
  }
  at::set_num_threads(before);
}

TEST_F(PackedProduct, WhatIsNotFiniteShowsInItsRowAlone) {
  const at::Tensor codes = Codes(40, 64);
  for (const double value : {std::nan(""), static_cast<double>(std::numeric_limits<float>::infinity())}) {
    at::Tensor x = at::randn({5, 64}, at::kBFloat16);
    x[2][7].fill_(value);
    const at::Tensor finite = at::isfinite(Multiply(x, 5, codes));
    for (int64_t row = 0; row < 5; ++row) EXPECT_EQ(finite[row].any().item<bool>(), row != 2) << row;
  }
}

// at::parallel_for is a template, and a plain loop where the file that calls it is compiled without OpenMP. This file
// is compiled as those of the pipeline are.
TEST(ParallelFor, HasSeveralThreads) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(threads.size(), 2u);
  at::set_num_threads(before);
}

}  // namespace
}  // namespace fresco
