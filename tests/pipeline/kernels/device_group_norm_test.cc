// The group norm's kernel on a GPU against the same programs on the CPU, bit for bit; skipped where there is no GPU.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "pipeline/engine/device.h"
#include "pipeline/kernels/cuda_library.h"
#include "tests/pipeline/kernels/group_norm_images.h"

namespace fresco::kernels {
namespace {

// SD3.5's at 64² to 512², a picture whose sides are odd, groups narrower and wider than a vector.
const std::vector<ImageShape> kShapes = {{64 * 64, 512, 32},  {256 * 256, 256, 32}, {512 * 512, 128, 32},
                                         {1021 * 3, 128, 32}, {1, 64, 8},           {33, 24, 3}};

class DeviceGroupNorm : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = PrepareDevice("cuda:0", 0);
    if (!device.ok()) GTEST_SKIP() << "needs a GPU: " << device.status().message();
    absl::StatusOr<std::shared_ptr<const CudaLibrary>> library = CudaLibrary::Load(CudaLibrary::DefaultPath());
    ASSERT_TRUE(library.ok()) << library.status();
    library_ = *std::move(library);
  }

  template <typename Type>
  void ExpectSameBits(const ImageShape& shape, bool silu) {
    const bool half = std::is_same_v<Type, Float16>;
    const GroupNormTensors here(shape, half ? at::kHalf : at::kBFloat16, /*mean=*/0.3, /*seed=*/5);
    GroupNormTensors there = here;
    for (at::Tensor* tensor :
         {&there.x, &there.weight, &there.bias, &there.means, &there.squares, &there.affine, &there.out})
      *tensor = tensor->to(at::kCUDA);
    RunOnHost<Type>(here.Job(silu));
    const absl::Status launched =
        library_->GroupNorm(half ? CudaElement::kFloat16 : CudaElement::kBFloat16, there.Job(silu), nullptr);
    ASSERT_TRUE(launched.ok()) << launched;
    EXPECT_TRUE(there.out.cpu().view(at::kShort).equal(here.out.view(at::kShort)));
    EXPECT_TRUE(there.affine.cpu().equal(here.affine));
  }

  std::shared_ptr<const CudaLibrary> library_;
};

TEST_F(DeviceGroupNorm, HasTheBitsOfItsProgramsOnTheCpu) {
  for (const ImageShape& shape : kShapes) {
    for (const bool silu : {false, true}) {
      SCOPED_TRACE(testing::Message() << shape.pixels << " pixels, " << shape.channels << " channels, silu " << silu);
      ExpectSameBits<BFloat16>(shape, silu);
      ExpectSameBits<Float16>(shape, silu);
    }
  }
}

TEST_F(DeviceGroupNorm, RefusesWhatNoKernelTakes) {
  const GroupNormTensors tensors({10, 24, 3}, at::kBFloat16, 0, 1);
  GroupNormJob job = tensors.Job(/*silu=*/true);
  EXPECT_TRUE(absl::IsInvalidArgument(library_->GroupNorm(CudaElement::kFloat32, job, nullptr)));
  job.groups = 5;
  EXPECT_TRUE(absl::IsInvalidArgument(library_->GroupNorm(CudaElement::kBFloat16, job, nullptr)));
  job = tensors.Job(/*silu=*/true);
  job.channels = 20;
  EXPECT_TRUE(absl::IsInvalidArgument(library_->GroupNorm(CudaElement::kBFloat16, job, nullptr)));
}

}  // namespace
}  // namespace fresco::kernels
