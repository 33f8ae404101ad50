// The group norm's kernel on a GPU against the same programs on the CPU, bit for bit; skipped where there is no GPU.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <memory>
#include <type_traits>
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

  absl::Status Launch(CudaElement type, const GroupNormJob& job) { return library_->GroupNorm(type, job, nullptr); }
  absl::Status Launch(CudaElement type, const AddImagesJob& job) { return library_->AddImages(type, job, nullptr); }

  // Runs the job that `make` makes of tensors on the CPU and, of copies of them, on the GPU.
  template <typename Type, typename Make>
  void ExpectSameBits(const ImageShape& shape, const Make& make) {
    const bool half = std::is_same_v<Type, Float16>;
    const GroupNormTensors here(shape, half ? at::kHalf : at::kBFloat16, /*mean=*/0.3, /*seed=*/5);
    GroupNormTensors there = here;
    for (at::Tensor* tensor :
         {&there.x, &there.weight, &there.bias, &there.x_bias, &there.means, &there.squares, &there.affine, &there.out})
      *tensor = tensor->to(at::kCUDA);
    RunOnHost<Type>(make(here));
    const absl::Status launched = Launch(half ? CudaElement::kFloat16 : CudaElement::kBFloat16, make(there));
    ASSERT_TRUE(launched.ok()) << launched;
    EXPECT_TRUE(there.out.cpu().view(at::kShort).equal(here.out.view(at::kShort)));
  }

  std::shared_ptr<const CudaLibrary> library_;
};

TEST_F(DeviceGroupNorm, HasTheBitsOfItsProgramsOnTheCpu) {
  for (const ImageShape& shape : kShapes) {
    for (const bool silu : {false, true}) {
      SCOPED_TRACE(testing::Message() << shape.pixels << " pixels, " << shape.channels << " channels, silu " << silu);
      const auto make = [&](const GroupNormTensors& t) { return t.Job(silu, /*biased=*/silu); };
      ExpectSameBits<BFloat16>(shape, make);
      ExpectSameBits<Float16>(shape, make);
    }
  }
}

TEST_F(DeviceGroupNorm, SumsHaveTheBitsOfTheirProgramOnTheCpu) {
  for (const ImageShape& shape : kShapes) {
    for (const bool biased : {false, true}) {
      SCOPED_TRACE(testing::Message() << shape.pixels << " pixels, " << shape.channels << " channels " << biased);
      const auto make = [&](const GroupNormTensors& t) { return t.SumWith(t.x, biased); };
      ExpectSameBits<BFloat16>(shape, make);
      ExpectSameBits<Float16>(shape, make);
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
