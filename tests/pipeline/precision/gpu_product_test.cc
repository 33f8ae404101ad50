// A GPU's products, as far as a CPU executes them: per-tensor scales, int8, and cuBLASLt by its stand-in.
#include "pipeline/precision/gpu_product.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "pipeline/precision/candidate_results.h"
#include "tests/pipeline/kernels/fake_cublas_lt.h"
#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr int64_t kRows = 40, kIn = 64, kOut = 48;

CodesProduct Product(LinearScheme scheme, at::ScalarType type, bool bias) {
  const at::Tensor weight = at::randn({kOut, kIn}), x = at::randn({kRows, kIn});
  const bool fp8 = scheme == LinearScheme::kFp8;
  CodesProduct product;
  product.codes = fp8 ? (x * 80).to(at::kFloat8_e4m3fn) : (x * 30).clamp(-127, 127).to(at::kChar);
  product.scale = at::full({kRows}, 1.0 / 80);
  product.weight = QuantizeWeight(weight, scheme);
  product.type = type;
  product.one = UnitScale(at::kCPU);
  if (bias) product.bias = at::randn({kOut}).to(type);
  return product;
}

// In double, of the codes.
at::Tensor Expected(const CodesProduct& product) {
  const at::Tensor x = product.codes.to(at::kFloat).to(at::kDouble) * product.scale.to(at::kDouble).unsqueeze(1);
  const at::Tensor w =
      product.weight.codes.to(at::kFloat).to(at::kDouble) * product.weight.scale.to(at::kDouble).unsqueeze(1);
  const at::Tensor y = at::matmul(x, w.t());
  return product.bias.defined() ? y + product.bias.to(at::kDouble) : y;
}

double UnitOf(at::ScalarType type) {
  return type == at::kBFloat16 ? 0x1p-8 : type == at::kHalf ? 0x1p-11 : 0x1p-22;
}

std::shared_ptr<DeviceKernels> Kernels(const cublas_lt::Api& api) {
  return std::shared_ptr<DeviceKernels>(new DeviceKernels{.choices = {}, .cublas_lt = std::make_shared<CublasLt>(api)});
}

std::string LtName(uint64_t first_word) {
  return "cublaslt:" + CublasLtAlgorithm{{first_word}}.ToHex();
}

class GpuProduct : public ::testing::Test {
 protected:
  // Relative to the whole: single elements may be differences of large sums.
  static void ExpectProduct(const std::string& kernel, const CodesProduct& product, double unit,
                            const DeviceKernels* kernels = nullptr) {
    const at::Tensor actual = MultiplyCodesBy(kernel, product, kernels), expected = Expected(product);
    EXPECT_LT(RelativeDistance(actual.to(at::kDouble), expected), unit) << kernel;
    EXPECT_EQ(actual.sizes(), expected.sizes());
  }

  const c10::InferenceMode inference_;
};

TEST_F(GpuProduct, PerTensorIsRoundedTwiceAtMost) {
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf, at::kFloat}) {
    for (const bool bias : {false, true}) {
      const CodesProduct product = Product(LinearScheme::kFp8, type, bias);
      ExpectProduct("per-tensor", product, UnitOf(type));
      EXPECT_EQ(MultiplyCodesBy("per-tensor", product, nullptr).scalar_type(), type);
    }
  }
}

TEST_F(GpuProduct, Int8) {
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    const CodesProduct product = Product(LinearScheme::kInt8, type, true);
    ExpectProduct("sums", product, UnitOf(type));
    ExpectProduct("", product, UnitOf(type));
    ExpectProduct("a kernel of another version", product, UnitOf(type));
  }
}

TEST_F(GpuProduct, ByAnAlgorithmOfCublasLt) {
  const auto kernels = Kernels(FakeApi());
  for (const bool bias : {false, true}) {
    ExpectProduct(LtName(7), Product(LinearScheme::kFp8, at::kBFloat16, bias), UnitOf(at::kBFloat16), kernels.get());
    ExpectProduct(LtName(7), Product(LinearScheme::kFp8, at::kHalf, bias), UnitOf(at::kHalf), kernels.get());
    ExpectProduct(LtName(7), Product(LinearScheme::kInt8, at::kBFloat16, bias), UnitOf(at::kBFloat16), kernels.get());
  }
}

// A file of choices may name what this library or this size does not take.
TEST_F(GpuProduct, WhereTheAlgorithmDoesNotTakeItTheUsualKernelDoes) {
  const auto kernels = Kernels(FakeApi());
  const CodesProduct product = Product(LinearScheme::kInt8, at::kBFloat16, true);
  ExpectProduct(LtName(kRefused), product, UnitOf(at::kBFloat16), kernels.get());
  ExpectProduct("cublaslt:no algorithm", product, UnitOf(at::kBFloat16), kernels.get());
  ExpectProduct(LtName(7), product, UnitOf(at::kBFloat16), nullptr);
}

TEST_F(GpuProduct, TakesTheKernelThatWasMeasured) {
  cublas_lt::Api api = FakeApi();
  const CodesProduct product = Product(LinearScheme::kInt8, at::kBFloat16, true);
  const ProductKind kind{LinearScheme::kInt8, at::kBFloat16, kIn, kOut, true, false};
  // An algorithm that the stand-in refuses is asked for and the usual one comes instead; so count what it is asked.
  static int asked = 0;
  asked = 0;
  api.multiply = [](auto...) {
    ++asked;
    return kNotSupported;
  };
  const auto counting = Kernels(api);
  MultiplyCodes(product, counting.get());
  EXPECT_EQ(asked, 0) << "nothing was measured";
  counting->choices.Set(ProductTask(kind, 128), {LtName(7), {}, {}});
  MultiplyCodes(product, counting.get());
  EXPECT_EQ(asked, 1);
  {
    const PinnedKernels pinned(true);
    MultiplyCodes(product, counting.get());
  }
  EXPECT_EQ(asked, 1) << "a deterministic picture takes the usual kernel";
}

std::vector<std::string> NamesOf(const std::vector<KernelCandidate>& candidates) {
  std::vector<std::string> names;
  for (const KernelCandidate& candidate : candidates) names.push_back(candidate.name);
  return names;
}

TEST_F(GpuProduct, CandidatesAreWhatMayTakeTheTask) {
  const auto with = Kernels(FakeApi());
  const auto without = std::make_shared<DeviceKernels>();
  const auto names = [&](ProductKind kind, const std::shared_ptr<DeviceKernels>& kernels) {
    kind.in = kIn;
    kind.out = kOut;
    return NamesOf(ProductCandidates(ProductTask(kind, 128), at::kCPU, kernels));
  };
  const LinearScheme fp8 = LinearScheme::kFp8, int8 = LinearScheme::kInt8;
  EXPECT_THAT(names({.scheme = fp8}, without), ElementsAre("row-wise"));
  EXPECT_THAT(names({.scheme = fp8, .type = at::kHalf}, without), ElementsAre("row-wise", "row-wise fp16"));
  EXPECT_THAT(names({.scheme = fp8, .one_scale = true}, without), ElementsAre("row-wise", "per-tensor"));
  EXPECT_THAT(names({.scheme = int8}, without), ElementsAre("sums"));
  EXPECT_THAT(names({.scheme = int8, .bias = true}, with), ElementsAre("sums", LtName(200), LtName(203)));
  EXPECT_THAT(names({.scheme = fp8, .bias = true}, with), ElementsAre("row-wise", LtName(100), LtName(103)));
  const ProductKind huge{.in = 16, .out = 1 << 20};
  EXPECT_THAT(ProductCandidates(ProductTask(huge, 16384), at::kCPU, with), IsEmpty()) << "for want of memory";
}

// On which everything takes so long that a round is one run.
KernelClock SlowDevice(FakeClock* clock) {
  return {clock, [clock] {
            clock->Advance(absl::Milliseconds(1));
            return absl::OkStatus();
          }};
}

// All the way: candidates that agree are measured, one that computes something else is not.
TEST_F(GpuProduct, WhatComputesSomethingElseIsLeftOut) {
  FakeClock clock;
  const ProductKind kind{LinearScheme::kInt8, at::kBFloat16, kIn, kOut, true, false};
  const auto right =
      MeasureKernels(ProductCandidates(ProductTask(kind, 128), at::kCPU, Kernels(FakeApi())), SlowDevice(&clock));
  ASSERT_TRUE(right.ok()) << right.status();
  EXPECT_THAT(right->failed, IsEmpty());
  cublas_lt::Api api = FakeApi();
  api.create_layout = [](void** out, cublas_lt::DataType type, uint64_t rows, uint64_t columns, int64_t stride) {
    return FakeApi().create_layout(out, type, rows, columns, rows == kIn ? stride : stride - 1);
  };
  const auto wrong =
      MeasureKernels(ProductCandidates(ProductTask(kind, 128), at::kCPU, Kernels(api)), SlowDevice(&clock));
  ASSERT_TRUE(wrong.ok()) << wrong.status();
  EXPECT_EQ(wrong->winner, "sums");
  EXPECT_THAT(wrong->failed, ElementsAre(testing::Pair(LtName(200), HasSubstr("another by")),
                                         testing::Pair(LtName(203), HasSubstr("another by"))));
}

TEST_F(GpuProduct, Fp8CandidatesAgree) {
  FakeClock clock;
  const ProductKind kind{LinearScheme::kFp8, at::kBFloat16, kIn, kOut, true, true};
  const auto measured =
      MeasureKernels(ProductCandidates(ProductTask(kind, 128), at::kCPU, Kernels(FakeApi())), SlowDevice(&clock));
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_THAT(measured->failed, ElementsAre(testing::Pair("row-wise", testing::_))) << "a CPU has no such product";
  EXPECT_TRUE(measured->seconds.contains("per-tensor") && measured->seconds.contains(LtName(100)));
}

TEST(CandidateResults, NanIsNotTheSame) {
  CandidateResults results;
  const KernelCandidate first = results.Candidate("first", [] { return at::full({4}, 1.0); });
  const KernelCandidate nan = results.Candidate("nan", [] { return at::full({4}, std::nan("")); });
  const KernelCandidate throws = results.Candidate("throws", []() -> at::Tensor { TORCH_CHECK(false, "not here"); });
  ASSERT_TRUE(first.run().ok() && first.check().ok());
  ASSERT_TRUE(nan.run().ok());
  EXPECT_EQ(nan.check().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(throws.run().message()), StartsWith("not here"));
}

}  // namespace
}  // namespace fresco
