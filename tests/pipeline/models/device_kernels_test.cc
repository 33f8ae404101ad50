// Kernels chosen by measurement on a GPU; skipped where there is none.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/engine/cuda_runtime.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/kernel_choosing.h"
#include "pipeline/models/gpu_attention.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/models/packed_tokens.h"
#include "pipeline/precision/candidate_results.h"
#include "pipeline/precision/gpu_product.h"

namespace fresco {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class DeviceKernelsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = PrepareDevice("cuda:0", 0);
    if (!device.ok()) GTEST_SKIP() << "needs a GPU: " << device.status().message();
    kernels_ = MakeDeviceKernels(device_);
  }

  KernelClock KernelsClock() {
    return {&clock_, [this] {
              Synchronize(device_);
              return absl::OkStatus();
            }};
  }

  // What none takes fails the test, and so does one that computes something else than the usual one.
  MeasuredKernel Measure(const KernelTask& task, const std::vector<KernelCandidate>& candidates) {
    SCOPED_TRACE(Describe(task));
    const absl::StatusOr<MeasuredKernel> measured = MeasureKernels(candidates, KernelsClock());
    EXPECT_TRUE(measured.ok()) << measured.status();
    if (!measured.ok()) return {};
    for (const auto& [name, why] : measured->failed) EXPECT_THAT(why, Not(HasSubstr("another by"))) << name;
    RecordProperty(Describe(task), measured->winner);
    return *measured;
  }

  // The demo model's velocity of two samples at unlike times.
  at::Tensor Velocity(const std::shared_ptr<DeviceKernels>& kernels, const std::string& precision) const {
    const Placement placement{device_, at::kBFloat16, kernels};
    const Mmdit model =
        Mmdit::Load("models/demo/transformer", placement, LayerTable::ForTransformer(precision)).value();
    ChooseKernels(device_, /*folder=*/"", kernels);
    const MmditConfig& config = model.config();
    const auto random = [&](at::IntArrayRef shape, uint64_t seed) {
      const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
      return at::randn(shape, generator, at::TensorOptions()).to(placement.device, placement.dtype);
    };
    return model.Forward(random({2, config.in_channels, 16, 12}, 1), random({2, 45, config.joint_attention_dim}, 2),
                         random({2, config.pooled_projection_dim}, 3), at::tensor({900.0f, 250.0f}).to(device_));
  }

  const at::Device device_{at::kCUDA, 0};
  const SystemClock clock_;
  std::shared_ptr<DeviceKernels> kernels_;
  const c10::InferenceMode inference_;
};

// Of SD3.5 Large and Medium.
std::vector<ProductKind> Products() {
  std::vector<ProductKind> kinds;
  for (const LinearScheme scheme : {LinearScheme::kFp8, LinearScheme::kInt8}) {
    if (scheme == LinearScheme::kFp8 && CudaCapability(0) < 89) continue;
    for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
      for (const auto& [in, out] : {std::pair(2432, 7296), {9728, 2432}, {1536, 6144}}) {
        for (const bool one_scale : {false, true}) kinds.push_back({scheme, type, in, out, /*bias=*/true, one_scale});
      }
    }
  }
  return kinds;
}

bool HasAlgorithm(const MeasuredKernel& measured) {
  return std::any_of(measured.seconds.begin(), measured.seconds.end(),
                     [](const auto& each) { return each.first.starts_with("cublaslt:"); });
}

TEST_F(DeviceKernelsTest, ProductsAgree) {
  const bool hopper = CudaCapability(0) == 90;
  for (const ProductKind& kind : Products()) {
    for (const int64_t rows : {128, 768, 8192}) {  // of both streams
      const KernelTask task = ProductTask(kind, rows);
      const MeasuredKernel measured = Measure(task, ProductCandidates(task, device_, kernels_));
      EXPECT_TRUE(!hopper || HasAlgorithm(measured)) << Describe(task);
    }
  }
}

TEST_F(DeviceKernelsTest, AttentionsAgree) {
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    for (const int64_t heads : {24, 38}) {
      for (const int64_t tokens : {384, 1024, 4096}) {
        const KernelTask task = AttentionTask(type, heads, 64, tokens);
        EXPECT_GT(Measure(task, AttentionCandidates(task, device_)).seconds.size(), 1u) << Describe(task);
      }
    }
  }
}

// The kernel that takes lengths, against each sample by itself.
TEST_F(DeviceKernelsTest, PackedAttentionIsThatOfEachSample) {
  constexpr int64_t kHeads = 6, kDim = 64;
  const PackedTokens packed({{2, 1024}, {1, 77}, {3, 400}}, 154, device_);
  const at::Tensor qkv =
      at::randn({packed.joint().tokens, 3, kHeads, kDim}, at::TensorOptions(device_).dtype(at::kBFloat16));
  const auto part = [&](int64_t index) { return qkv.select(1, index); };
  const at::Tensor all = PackedFlashAttention(part(0), part(1), part(2), packed.joint().starts, packed.joint().longest);
  ASSERT_EQ(all.sizes(), at::IntArrayRef({packed.joint().tokens, kHeads, kDim}));
  for (const PackedSequences::Group& group : packed.joint().groups) {
    const at::Tensor own = qkv.narrow(0, group.first_token, group.samples * group.length)
                               .view({group.samples, group.length, 3, kHeads, kDim});
    const auto head = [&](int64_t index) { return own.select(2, index).transpose(1, 2).to(at::kFloat); };
    const at::Tensor expected = AttentionBy("math", head(0), head(1), head(2), 0.125).transpose(1, 2);
    const at::Tensor mixed = all.narrow(0, group.first_token, group.samples * group.length).view(expected.sizes());
    EXPECT_LT((mixed.to(at::kFloat) - expected).abs().max().item<float>(), 1e-2f) << group.length;
  }
}

TEST_F(DeviceKernelsTest, AModelWithChosenKernelsDrawsTheSame) {
  for (const std::string precision : {"bf16", "fp8", "int8"}) {
    EXPECT_LT(RelativeDistance(Velocity(kernels_, precision), Velocity(nullptr, precision)), 2e-2) << precision;
  }
}

TEST_F(DeviceKernelsTest, PinnedKernelsAreTheUsualOnes) {
  const PinnedKernels pinned(true);
  for (const std::string precision : {"bf16", "fp8", "int8"}) {
    EXPECT_TRUE(at::equal(Velocity(kernels_, precision), Velocity(nullptr, precision))) << precision;
  }
}

}  // namespace
}  // namespace fresco
