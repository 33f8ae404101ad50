#include "pipeline/models/cpu_attention.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "pipeline/models/layers.h"
#include "pipeline/precision/packed_product.h"

namespace fresco {
namespace {

struct Heads {
  at::Tensor q, k, v;
};

class CpuAttention : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasPackedProducts()) GTEST_SKIP() << "no bf16 products in this processor";
  }
  // As the model makes them: parts of one product, [B, N, 3, heads, d].
  static Heads Make(int64_t samples, int64_t heads, int64_t tokens, int64_t width) {
    const at::Tensor qkv = at::randn({samples, tokens, 3, heads, width}, at::kBFloat16);
    const auto part = [&](int64_t i) { return qkv.select(2, i).transpose(1, 2); };
    return {part(0) * 3, part(1), part(2)};
  }
  static at::Tensor InDouble(const Heads& heads, double scale) {
    const at::Tensor scores = at::matmul(heads.q.to(at::kDouble), heads.k.to(at::kDouble).transpose(2, 3)) * scale;
    return at::matmul(at::softmax(scores, 3), heads.v.to(at::kDouble)).transpose(1, 2).flatten(2);
  }
  const c10::InferenceMode inference_;
};

TEST_F(CpuAttention, IsTheSoftmaxOfTheScoresTimesTheValues) {
  for (const int64_t tokens : {1, 31, 32, 77, 300, 1357}) {
    for (const int64_t width : {8, 64, 80}) {
      const Heads heads = Make(2, 3, tokens, width);
      const at::Tensor expected = InDouble(heads, 0.1), y = AttentionOnCpu(heads.q, heads.k, heads.v, 0.1);
      ASSERT_EQ(y.sizes(), expected.sizes());
      // Weights and the result are rounded to bf16: each by at most 2^-9 of it, the weights against values of which
      // none is above the largest.
      const at::Tensor bound = expected.abs() * 0x1p-8 + heads.v.to(at::kDouble).abs().max() * 0x1p-8;
      EXPECT_TRUE((y.to(at::kDouble) - expected).abs().le(bound).all().item<bool>()) << tokens << ", " << width;
    }
  }
}

TEST_F(CpuAttention, OtherTokensForKeysAndValues) {
  const Heads heads = Make(1, 2, 90, 64);
  const Heads shorter{heads.q, heads.k.narrow(2, 3, 21), heads.v.narrow(2, 3, 21)};
  const at::Tensor y = AttentionOnCpu(shorter.q, shorter.k, shorter.v, 0.125);
  EXPECT_LT((y.to(at::kDouble) - InDouble(shorter, 0.125)).abs().max().item<double>(), 0.03);
}

// It is what the layers compute with, and not further from the truth than libtorch's.
TEST_F(CpuAttention, ServesTheLayers) {
  const Heads heads = Make(1, 4, 200, 64);
  const at::Tensor y = Attention(heads.q, heads.k, heads.v);
  EXPECT_TRUE(at::equal(y, AttentionOnCpu(heads.q, heads.k, heads.v, 0.125)));
  const at::Tensor causal = Attention(heads.q, heads.k, heads.v, {.causal = true});
  EXPECT_FALSE(at::equal(y, causal));
}

TEST_F(CpuAttention, ASampleIsTheSameInAnyBatchByAnyNumberOfThreads) {
  const int before = at::get_num_threads();
  const Heads heads = Make(3, 5, 333, 64);
  at::set_num_threads(1);
  std::vector<at::Tensor> alone;
  for (int64_t i = 0; i < 3; ++i)
    alone.push_back(AttentionOnCpu(heads.q.narrow(0, i, 1), heads.k.narrow(0, i, 1), heads.v.narrow(0, i, 1), 0.125));
  for (const int threads : {1, 2, 4}) {
    at::set_num_threads(threads);
    EXPECT_TRUE(at::equal(AttentionOnCpu(heads.q, heads.k, heads.v, 0.125), at::cat(alone))) << threads;
  }
  at::set_num_threads(before);
}

// What is not finite stays in its sample, and shows in all that it reaches.
TEST_F(CpuAttention, WhatIsNotFiniteShows) {
  for (const bool key : {true, false}) {
    Heads heads = Make(2, 2, 40, 64);
    at::Tensor x = (key ? heads.k : heads.v).clone();
    x[1][0][39][5].fill_(std::nan(""));
    (key ? heads.k : heads.v) = x;
    const at::Tensor finite = at::isfinite(AttentionOnCpu(heads.q, heads.k, heads.v, 0.125));
    EXPECT_TRUE(finite[0].all().item<bool>());
    const at::Tensor own = finite[1].narrow(1, 0, 64);
    EXPECT_FALSE(key ? own.any().item<bool>() : own.select(1, 5).any().item<bool>());
    EXPECT_TRUE(finite[1].narrow(1, 64, 64).all().item<bool>());
  }
}

TEST_F(CpuAttention, TakesWhatItComputes) {
  const Heads heads = Make(1, 1, 4, 8);
  EXPECT_TRUE(AttentionOnCpuTakes(heads.q, heads.k, heads.v));
  EXPECT_FALSE(AttentionOnCpuTakes(heads.q.to(at::kFloat), heads.k, heads.v));
  EXPECT_FALSE(AttentionOnCpuTakes(heads.q, heads.k.transpose(2, 3), heads.v));
  EXPECT_FALSE(AttentionOnCpuTakes(heads.q.narrow(3, 0, 7), heads.k.narrow(3, 0, 7), heads.v.narrow(3, 0, 7)));
}

}  // namespace
}  // namespace fresco
