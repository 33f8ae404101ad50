// Attention's kernels, as far as a CPU executes them.
#include "pipeline/models/gpu_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "pipeline/models/layers.h"
#include "pipeline/precision/candidate_results.h"
#include "pipeline/precision/device_kernels.h"
#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::Key;

constexpr int64_t kHeads = 3, kDim = 16, kTokens = 45;

class GpuAttention : public ::testing::Test {
 protected:
  const c10::InferenceMode inference_;
  const at::Tensor q_ = at::randn({2, kHeads, kTokens, kDim}), k_ = at::randn({2, kHeads, kTokens, kDim}),
                   v_ = at::randn({2, kHeads, kTokens, kDim});
};

TEST_F(GpuAttention, KernelsComputeTheFormula) {
  for (const double scale : {1 / std::sqrt(16.0), 0.7}) {
    const at::Tensor scores = at::matmul(q_.to(at::kDouble), k_.to(at::kDouble).transpose(2, 3)) * scale;
    const at::Tensor expected = at::matmul(at::softmax(scores, -1), v_.to(at::kDouble));
    for (const char* kernel : {"libtorch", "math"}) {
      const at::Tensor mixed = AttentionBy(kernel, q_, k_, v_, scale);
      EXPECT_LT(RelativeDistance(mixed.to(at::kDouble), expected), 1e-6) << kernel;
    }
  }
}

TEST_F(GpuAttention, AForeignNameIsNone) {
  EXPECT_FALSE(AttentionBy("flash 9", q_, k_, v_, 1).defined());
}

// A file of choices may be of a program that knows more kernels; and those that the device has not are left out.
TEST_F(GpuAttention, AttentionGoesOnByLibtorchsChoice) {
  DeviceKernels kernels;
  const at::Tensor usual = Attention(q_, k_, v_);
  EXPECT_TRUE(at::equal(Attention(q_, k_, v_, {.kernels = &kernels}), usual));
  kernels.choices.Set(AttentionTask(at::kFloat, kHeads, kDim, 128), {"flash 9", {}, {}});
  EXPECT_TRUE(at::equal(Attention(q_, k_, v_, {.kernels = &kernels}), usual));
}

TEST_F(GpuAttention, TakesTheKernelThatWasMeasured) {
  DeviceKernels kernels;
  kernels.choices.Set(AttentionTask(at::kFloat, kHeads, kDim, 128), {"math", {}, {}});
  const at::Tensor math = AttentionBy("math", q_, k_, v_, 0.25).transpose(1, 2).flatten(2);
  EXPECT_TRUE(at::equal(Attention(q_, k_, v_, {.kernels = &kernels}), math));
  EXPECT_FALSE(at::equal(Attention(q_, k_, v_), math)) << "the two must differ for this test to see anything";
  const PinnedKernels pinned(true);
  EXPECT_TRUE(at::equal(Attention(q_, k_, v_, {.kernels = &kernels}), Attention(q_, k_, v_)));
}

TEST_F(GpuAttention, WhatTheDeviceDoesNotHaveIsLeftOut) {
  FakeClock clock;
  const KernelTask task = AttentionTask(at::kFloat, kHeads, kDim, 128);
  const auto measured = MeasureKernels(AttentionCandidates(task, at::kCPU), {&clock, [&] {
                                                                               clock.Advance(absl::Milliseconds(1));
                                                                               return absl::OkStatus();
                                                                             }});
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->winner, "libtorch");
  EXPECT_THAT(measured->seconds, ElementsAre(Key("libtorch"), Key("math")));
  EXPECT_EQ(AttentionCandidates(AttentionTask(at::kFloat, kHeads, kDim, 4096), at::kCPU).size(), 4u)
      << "without two products, which would fill the memory";
}

}  // namespace
}  // namespace fresco
