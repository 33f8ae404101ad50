// The autoencoder on a GPU, channels-last throughout, against the CPU; skipped where there is no GPU.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <string>

#include "pipeline/engine/device.h"
#include "pipeline/models/autoencoder.h"
#include "pipeline/precision/cuda_kernels.h"

namespace fresco {
namespace {

struct AutoencoderCase {
  std::string name;
  VaeTiling tiling = VaeTiling::kNever;
  VaePrecision precision = VaePrecision::kAuto;
};

class DeviceAutoencoder : public ::testing::TestWithParam<AutoencoderCase> {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = PrepareDevice("cuda:0", 0);
    if (!device.ok()) GTEST_SKIP() << "needs a GPU: " << device.status().message();
    ASSERT_TRUE(CudaKernelsStatus().ok()) << CudaKernelsStatus();
  }

  static Autoencoder Load(const Placement& placement) {
    VaeOptions options;
    options.tiling = GetParam().tiling;
    options.tile_size = 128;
    options.precision = GetParam().precision;
    return Autoencoder::Load("models/demo/vae", placement, options).value();
  }

  static at::Tensor Decode(const Placement& placement, const Observer& observer = {}) {
    const at::Tensor z = at::randn({1, 16, 24, 18}, at::make_generator<at::CPUGeneratorImpl>(3), at::TensorOptions());
    return Load(placement).Decode(z.to(placement.device, placement.dtype), observer).to(at::kCPU, at::kFloat);
  }

  static double Distance(const at::Tensor& a, const at::Tensor& b) {
    return (at::linalg_vector_norm(a - b) / at::linalg_vector_norm(b)).item<double>();
  }

  const c10::InferenceMode inference_;
  const Placement gpu_{at::Device(at::kCUDA, 0), at::kBFloat16};
};

// The kernel rounds once where the CPU rounds twice: no further from fp32, but for chance.
TEST_P(DeviceAutoencoder, IsAsCloseToFp32AsTheCpu) {
  const at::Tensor exact = Decode({at::kCPU, at::kFloat});
  const double on_cpu = Distance(Decode({at::kCPU, at::kBFloat16}), exact), on_gpu = Distance(Decode(gpu_), exact);
  RecordProperty("on_cpu", std::to_string(on_cpu));
  RecordProperty("on_gpu", std::to_string(on_gpu));
  EXPECT_LT(on_gpu, 1.2 * on_cpu + 1e-3);
}

// What is not would be laid out anew before the next convolution.
TEST_P(DeviceAutoencoder, EveryStageIsChannelsLast) {
  int stages = 0;
  Decode(gpu_, [&](std::string_view name, const at::Tensor& value) {
    ++stages;
    EXPECT_TRUE(value.is_contiguous(at::MemoryFormat::ChannelsLast)) << name << " " << value.strides();
  });
  EXPECT_GE(stages, 7);
}

INSTANTIATE_TEST_SUITE_P(All, DeviceAutoencoder,
                         ::testing::Values(AutoencoderCase{"whole"}, AutoencoderCase{"tiled", VaeTiling::kAlways},
                                           AutoencoderCase{"fp8", VaeTiling::kNever, VaePrecision::kFp8}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace fresco
