// The transformer on a GPU, where tokens go through fused kernels, against the CPU; skipped where there is no GPU.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/scope_log.h"
#include "pipeline/engine/device.h"
#include "pipeline/models/gpu_attention.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/precision/cuda_kernels.h"
#include "pipeline/precision/device_kernels.h"

namespace fresco {
namespace {

constexpr char kAttention[] = "fp8-attention-too";

class DeviceMmdit : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = PrepareDevice("cuda:0", 0);
    if (!device.ok()) GTEST_SKIP() << "needs a GPU: " << device.status().message();
    ASSERT_TRUE(CudaKernelsStatus().ok()) << CudaKernelsStatus();
  }

  static at::Tensor Random(at::IntArrayRef shape, uint64_t seed) {
    return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), at::TensorOptions());
  }

  // The demo model, on the GPU in bf16.
  static Mmdit Load(const std::string& precision, std::shared_ptr<DeviceKernels> kernels = nullptr) {
    return Load({at::Device(at::kCUDA, 0), at::kBFloat16, std::move(kernels)}, precision);
  }
  static Mmdit Load(const Placement& placement, const std::string& precision) {
    const bool attention = precision == kAttention;
    LayerTable layers = LayerTable::ForTransformer(attention ? "fp8" : precision);
    if (attention) layers.SetAttention(AttentionScheme::kFp8);
    return Mmdit::Load("models/demo/transformer", placement, layers).value();
  }

  // Its velocity of two samples at unlike times.
  static at::Tensor Velocity(const Placement& placement, const std::string& precision) {
    const Mmdit model = Load(placement, precision);
    const MmditConfig& config = model.config();
    const auto place = [&](const at::Tensor& x) { return x.to(placement.device, placement.dtype); };
    return model
        .Forward(place(Random({2, config.in_channels, 16, 12}, 1)),
                 place(Random({2, 45, config.joint_attention_dim}, 2)),
                 place(Random({2, config.pooled_projection_dim}, 3)), at::tensor({900.0f, 250.0f}).to(placement.device))
        .to(at::kCPU, at::kFloat);
  }

  static double Distance(const at::Tensor& a, const at::Tensor& b) {
    return (at::linalg_vector_norm(a - b) / at::linalg_vector_norm(b)).item<double>();
  }

  // Samples of three sizes, in four runs of one length each, in one forward and in forwards of their own, which are to
  // agree; and by how many launches the former's joint attentions were computed.
  static int64_t AttentionsOfMixedSizes(const Mmdit& model) {
    const MmditConfig& config = model.config();
    const Placement& placement = model.placement();
    const auto place = [&](const at::Tensor& x) { return x.to(placement.device, placement.dtype); };
    std::vector<at::Tensor> latents;
    for (const auto& [count, height, width] :
         {std::tuple<int64_t, int64_t, int64_t>{2, 16, 12}, {1, 32, 32}, {1, 12, 16}, {3, 8, 20}})
      latents.push_back(place(Random({count, config.in_channels, height, width}, 1 + static_cast<uint64_t>(height))));
    const at::Tensor text = place(Random({7, 45, config.joint_attention_dim}, 2));
    const at::Tensor pooled = place(Random({7, config.pooled_projection_dim}, 3));
    const at::Tensor timesteps =
        at::tensor({900.0f, 250.0f, 10.0f, 999.0f, 500.0f, 501.0f, 700.0f}).to(placement.device);
    const SystemClock clock;
    ScopeLog log(&clock);
    log.Open();
    const std::vector<at::Tensor> together = model.Forward(latents, text, pooled, timesteps);
    log.Close();
    int64_t first = 0;
    for (size_t i = 0; i < latents.size(); ++i) {
      const auto own = [&](const at::Tensor& x) { return x.narrow(0, first, latents[i].size(0)); };
      const at::Tensor apart = model.Forward(latents[i], own(text), own(pooled), own(timesteps));
      EXPECT_LT(Distance(together[i].to(at::kFloat), apart.to(at::kFloat)), 2e-2) << i;
      first += latents[i].size(0);
    }
    const std::vector<RecordedScope> scopes = log.Take();
    return std::count_if(scopes.begin(), scopes.end(),
                         [](const RecordedScope& scope) { return scope.name == "attn.attention"; });
  }

  const c10::InferenceMode inference_;
};

// The fused kernels round less often than the CPU's tensors: no further from fp32 than these, but for chance.
TEST_P(DeviceMmdit, IsAsCloseToFp32AsTheCpu) {
  const at::Tensor exact = Velocity({at::kCPU, at::kFloat}, "fp32");
  const double on_cpu = Distance(Velocity({at::kCPU, at::kBFloat16}, GetParam()), exact);
  const double on_gpu = Distance(Velocity({at::Device(at::kCUDA, 0), at::kBFloat16}, GetParam()), exact);
  RecordProperty("on_cpu", std::to_string(on_cpu));
  RecordProperty("on_gpu", std::to_string(on_gpu));
  EXPECT_LT(on_gpu, 1.2 * on_cpu + 1e-3);
}

// Samples of three sizes in one forward are those that they are in forwards of their own, to what rounding makes of
// products of other shapes.
TEST_P(DeviceMmdit, SizesMixInOneForward) {
  const Mmdit model = Load(GetParam());
  EXPECT_EQ(AttentionsOfMixedSizes(model), 4 * model.config().num_layers) << "one for each neighbours' length";
}

// Where FlashAttention was measured to be the fastest, one launch of it has all lengths. FP8 attention has no choice.
TEST_P(DeviceMmdit, SizesMixInOneLaunchOfFlashAttention) {
  const auto kernels = std::make_shared<DeviceKernels>();
  const Mmdit model = Load(GetParam(), kernels);
  const MmditConfig& config = model.config();
  for (const int64_t tokens : SizeSteps())
    kernels->choices.Set(AttentionTask(at::kBFloat16, config.num_heads, config.head_dim, tokens), {"flash", {}, {}});
  EXPECT_EQ(AttentionsOfMixedSizes(model), (GetParam() == kAttention ? 4 : 1) * config.num_layers);
}

INSTANTIATE_TEST_SUITE_P(All, DeviceMmdit, ::testing::Values("bf16", "fp8", kAttention, "fp8-weight-only", "int8"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace fresco
