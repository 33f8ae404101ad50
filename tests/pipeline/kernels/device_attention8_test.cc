// FP8 attention on a GPU against the CPU's: codes and scales bit for bit, results up to the order of sums; skipped
// where there is no GPU that computes FP8.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <memory>
#include <tuple>

#include "pipeline/engine/cuda_runtime.h"
#include "pipeline/engine/device.h"
#include "pipeline/kernels/cpu/attention8.h"
#include "pipeline/kernels/cuda_library.h"

namespace fresco::kernels {
namespace {

constexpr int64_t kSamples = 2, kHeads = 3;

// A job's memory on one device, poisoned.
struct Workspace {
  Workspace(const at::Tensor& qkv, const at::Device& device) : qkv(qkv.to(device)), tokens(qkv.size(1)) {
    const auto bytes = [&](int64_t count) {
      return at::full({count}, 0x55, at::TensorOptions(device).dtype(at::kByte));
    };
    const int64_t heads = kSamples * kHeads, filled = FilledTokens(tokens);
    parts = {
        bytes(heads * tokens * kAttention8Dim),     bytes(heads * filled * kAttention8Dim),
        bytes(heads * filled * kAttention8Dim),     bytes(heads * tokens * int64_t{sizeof(float)}),
        bytes(heads * int64_t{sizeof(HeadScales)}), bytes(heads * TilesOf(tokens) * int64_t{sizeof(TileStatistics)})};
    out = at::full({kSamples, tokens, kHeads * kAttention8Dim}, 7, this->qkv.options());
  }

  HeadCodes codes() const {
    const auto at = [&](size_t part) { return static_cast<uint8_t*>(parts[part].data_ptr()); };
    return {at(0), at(1), at(2), reinterpret_cast<float*>(at(3)), reinterpret_cast<HeadScales*>(at(4))};
  }
  EncodeHeadsJob encode() const {
    const int64_t token = qkv.stride(1), row = kHeads * kAttention8Dim;
    const auto rows = [&](int64_t part) {
      return HeadRows{static_cast<const uint16_t*>(qkv.const_data_ptr()) + part * row, qkv.stride(0), kAttention8Dim,
                      token};
    };
    return {kSamples, tokens,  kHeads,  rows(0),
            rows(1),  rows(2), codes(), reinterpret_cast<TileStatistics*>(parts[5].data_ptr())};
  }
  Attention8Job attend() const { return {kSamples, tokens, kHeads, 0.125f, codes(), out.data_ptr()}; }

  at::Tensor qkv;  // [samples, tokens, 3 * heads * 64]
  int64_t tokens;
  std::vector<at::Tensor> parts;
  at::Tensor out;
};

class DeviceAttention8 : public ::testing::TestWithParam<std::tuple<at::ScalarType, int64_t>> {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = PrepareDevice("cuda:0", 0);
    if (!device.ok()) GTEST_SKIP() << "needs a GPU: " << device.status().message();
    absl::StatusOr<std::shared_ptr<const CudaLibrary>> library = CudaLibrary::Load(CudaLibrary::DefaultPath());
    ASSERT_TRUE(library.ok()) << library.status();
    library_ = *std::move(library);
  }

  static bool ComputesFp8() { return CudaCapability(0) >= 89; }
  static bool InHalf() { return std::get<0>(GetParam()) == at::kHalf; }
  static CudaElement Element() { return InHalf() ? CudaElement::kFloat16 : CudaElement::kBFloat16; }

  static at::Tensor Random() {
    const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(5);
    at::Tensor qkv =
        at::randn({kSamples, std::get<1>(GetParam()), 3 * kHeads * kAttention8Dim}, generator, at::TensorOptions());
    qkv.select(2, kHeads * kAttention8Dim + 3).add_(20);  // a channel of the first head's keys
    return qkv.to(std::get<0>(GetParam()));
  }

  template <typename Type>
  static void OnCpu(const Workspace& here) {
    for (int64_t head = 0; head < kSamples * kHeads; ++head) {
      EncodeHeadOnCpu<Type>(here.encode(), head);
      AttendHeadOnCpu<Type>(here.attend(), head);
    }
  }

  std::shared_ptr<const CudaLibrary> library_;
};

TEST_P(DeviceAttention8, IsTheCpus) {
  if (!ComputesFp8()) GTEST_SKIP() << "needs a GPU that computes FP8";
  const at::Tensor qkv = Random();
  const Workspace here(qkv, at::kCPU), there(qkv, at::Device(at::kCUDA, 0));
  InHalf() ? OnCpu<Float16>(here) : OnCpu<BFloat16>(here);
  absl::Status launched = library_->EncodeHeads(Element(), there.encode(), nullptr);
  launched.Update(library_->Attention8(Element(), there.attend(), nullptr));
  ASSERT_TRUE(launched.ok()) << launched;
  // Codes of q, k and v, and q's scales; the rest has bytes that nobody reads.
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(there.parts[i].cpu().equal(here.parts[i])) << "part " << i;
  const at::Tensor actual = there.out.cpu().to(at::kDouble), expected = here.out.to(at::kDouble);
  ASSERT_TRUE(at::isfinite(actual).all().item<bool>());
  const double distance = (at::linalg_vector_norm(actual - expected) / at::linalg_vector_norm(expected)).item<double>();
  RecordProperty("distance", std::to_string(distance));
  // Elements rounded twice, and weights that got the neighbouring code as tensor cores add up fewer bits.
  EXPECT_LT(distance, InHalf() ? 4e-3 : 6e-3);
}

TEST_P(DeviceAttention8, AGpuWithoutFp8SaysSo) {
  if (ComputesFp8()) GTEST_SKIP() << "this GPU computes FP8";
  const Workspace there(Random(), at::Device(at::kCUDA, 0));
  const absl::Status launched = library_->Attention8(Element(), there.attend(), nullptr);
  EXPECT_NE(launched.message().find("8.9"), std::string::npos) << launched;
}

TEST_P(DeviceAttention8, WhatNoKernelTakesIsRefused) {
  const Workspace there(Random(), at::Device(at::kCUDA, 0));
  EncodeHeadsJob encode = there.encode();
  encode.k.token += 4;
  EXPECT_EQ(library_->EncodeHeads(Element(), encode, nullptr).code(), absl::StatusCode::kInvalidArgument);
  Attention8Job attend = there.attend();
  attend.tokens = 0;
  EXPECT_EQ(library_->Attention8(Element(), attend, nullptr).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(library_->Attention8(CudaElement::kFloat32, there.attend(), nullptr).code(),
            absl::StatusCode::kInvalidArgument);
}

// From one token to the joint sequences of 512² and 1024² with 333 of text.
INSTANTIATE_TEST_SUITE_P(Tokens, DeviceAttention8,
                         ::testing::Combine(::testing::Values(at::kBFloat16, at::kHalf),
                                            ::testing::Values(1, 63, 64, 65, 157, 1357, 4429)));

}  // namespace
}  // namespace fresco::kernels
