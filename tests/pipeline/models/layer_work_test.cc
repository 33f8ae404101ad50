// How many bytes layers are said to move, above all those that kernels compute at once, which no CPU runs.
#include "pipeline/models/layer_work.h"

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

namespace fresco {
namespace {

constexpr int64_t kSamples = 2, kTokens = 5, kWidth = 32;
constexpr int64_t kRows = kSamples * kTokens;
constexpr int64_t kTokenBytes = kRows * kWidth * 2, kVectorBytes = kSamples * kWidth * 2;  // of bf16
constexpr int64_t kCodeBytes = kRows * kWidth + kRows * 4;                                 // and a scale a token

class LayerWorkTest : public ::testing::Test {
 protected:
  static at::Tensor Make(at::IntArrayRef shape, at::ScalarType type = at::kBFloat16) {
    return at::empty(shape, at::TensorOptions().dtype(type));
  }

  const at::Tensor x_ = Make({kSamples, kTokens, kWidth});
  const at::Tensor vector_ = Make({kSamples, 1, kWidth});
  const ScaleShift modulation_{vector_, vector_};
  const RowQuantization codes_;
};

TEST_F(LayerWorkTest, WhatIsWrittenIsAsWideAsTheCallerSays) {
  const LayerWork work = ElementwiseWork({at::Tensor(), x_, Make({3}, at::kFloat)}, /*written=*/1000);
  EXPECT_EQ(work.bytes, kTokenBytes + 3 * 4 + 1000);
  EXPECT_EQ(work.flops, 0);
  EXPECT_EQ(work.dtype, "bf16");
}

TEST_F(LayerWorkTest, ANormReadsItsModulationToo) {
  EXPECT_EQ(NormModulateWork({x_, {}, {}}, modulation_).bytes, 2 * kTokenBytes + 2 * kVectorBytes);
}

TEST_F(LayerWorkTest, ANormThatQuantisesWritesAByteAnElementAndAScaleAToken) {
  const LayerWork work = NormModulateWork({x_, {}, {}}, modulation_, &codes_);
  EXPECT_EQ(work.bytes, kTokenBytes + 2 * kVectorBytes + kCodeBytes);
  EXPECT_EQ(work.dtype, "bf16");
}

// x, its branch and the gate are read; the sum, which the next residual is added to, is written.
TEST_F(LayerWorkTest, ANormThatAddsABranchWritesTheSumToo) {
  const Residual residual{x_, vector_, x_};
  EXPECT_EQ(NormModulateWork(residual, modulation_).bytes, 4 * kTokenBytes + 3 * kVectorBytes);
  EXPECT_EQ(NormModulateWork(residual, modulation_, &codes_).bytes, 3 * kTokenBytes + 3 * kVectorBytes + kCodeBytes);
}

TEST_F(LayerWorkTest, AnActivationThatQuantisesWritesCodes) {
  EXPECT_EQ(ActivationWork(x_).bytes, 2 * kTokenBytes);
  EXPECT_EQ(ActivationWork(x_, &codes_).bytes, kTokenBytes + kCodeBytes);
  RowQuantization smoothed;
  smoothed.multiplier = Make({kWidth}, at::kFloat);
  EXPECT_EQ(ActivationWork(x_, &smoothed).bytes, kTokenBytes + kCodeBytes + kWidth * 4);
}

TEST_F(LayerWorkTest, AProductOfCodesReadsTheirScales) {
  constexpr int64_t kOut = 48;
  Linear linear;
  linear.weight = Make({kOut, kWidth});
  const QuantizedRows rows{Make({kSamples, kTokens, kWidth}, at::kChar), Make({kRows}, at::kFloat), {}};
  const LayerWork work = CodesWork(linear, rows);
  EXPECT_EQ(work.bytes, kOut * kWidth * 2 + kCodeBytes + kRows * kOut * 2);
  EXPECT_EQ(work.flops, 2 * kRows * kWidth * kOut);
}

}  // namespace
}  // namespace fresco
