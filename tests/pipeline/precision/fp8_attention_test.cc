// FP8 attention of tensors, on the CPU.
#include "pipeline/precision/fp8_attention.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

namespace fresco {
namespace {

struct Heads {
  at::Tensor q, k, v;  // [B, heads, N, 64]
};

class Fp8AttentionTest : public ::testing::Test {
 protected:
  // As a fused kernel leaves them: views of [B, N, 3, heads, 64].
  static Heads Random(int64_t samples, int64_t heads, int64_t tokens, at::ScalarType type = at::kFloat) {
    const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(3);
    const at::Tensor qkv = at::randn({samples, tokens, 3, heads, 64}, generator, at::TensorOptions()).to(type);
    const auto part = [&](int64_t i) { return qkv.select(2, i).transpose(1, 2); };
    return {part(0), part(1), part(2)};
  }

  static at::Tensor Compute(const Heads& heads) { return Fp8Attention(heads.q, heads.k, heads.v); }

  const c10::InferenceMode inference_;
};

TEST_F(Fp8AttentionTest, IsCloseToLibtorchs) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const Heads heads = Random(2, 3, 157, type);
    const at::Tensor exact =
        at::scaled_dot_product_attention(heads.q.to(at::kDouble), heads.k.to(at::kDouble), heads.v.to(at::kDouble))
            .transpose(1, 2)
            .flatten(2);
    const at::Tensor actual = Compute(heads);
    EXPECT_EQ(actual.scalar_type(), type);
    ASSERT_EQ(actual.sizes(), exact.sizes());
    const at::Tensor distance = at::linalg_vector_norm(actual.to(at::kDouble) - exact) / at::linalg_vector_norm(exact);
    EXPECT_LT(distance.item<double>(), 0.06) << type;  // attention8_test says why
  }
}

TEST_F(Fp8AttentionTest, LayoutDoesNotMatter) {
  const Heads heads = Random(2, 3, 70);
  const at::Tensor expected = Compute(heads);
  EXPECT_TRUE(at::equal(Compute({heads.q.contiguous(), heads.k.contiguous(), heads.v.contiguous()}), expected));
  // Channels apart, which no kernel reads.
  const auto apart = [](const at::Tensor& x) { return x.transpose(2, 3).contiguous().transpose(2, 3); };
  EXPECT_TRUE(at::equal(Compute({apart(heads.q), apart(heads.k), apart(heads.v)}), expected));
}

TEST_F(Fp8AttentionTest, ASampleIsTheSameInAnyBatchAndByAnyNumberOfThreads) {
  const int before = at::get_num_threads();
  const Heads heads = Random(3, 2, 67, at::kBFloat16);
  at::set_num_threads(1);
  const at::Tensor together = Compute(heads);
  at::set_num_threads(3);
  for (int64_t i = 0; i < 3; ++i) {
    const at::Tensor alone = Compute({heads.q.narrow(0, i, 1), heads.k.narrow(0, i, 1), heads.v.narrow(0, i, 1)});
    EXPECT_TRUE(at::equal(alone[0], together[i])) << i;
  }
  at::set_num_threads(before);
}

TEST_F(Fp8AttentionTest, OtherHeadsAreRefused) {
  const at::Tensor x = at::randn({1, 2, 5, 32});
  EXPECT_THROW(Fp8Attention(x, x, x), c10::Error);
  const Heads heads = Random(1, 2, 5);
  EXPECT_THROW(Fp8Attention(heads.q, heads.k.narrow(2, 0, 4), heads.v), c10::Error);
}

}  // namespace
}  // namespace fresco
