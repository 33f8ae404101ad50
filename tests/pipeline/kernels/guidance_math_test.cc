// The arithmetic that the CUDA kernels share, against the same formula as libtorch's eager tensors, bit for bit.
#include "pipeline/kernels/guidance_math.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scalar_tensor.h>
#include <gtest/gtest.h>

#include <cmath>

#include "pipeline/kernels/cuda_library.h"

namespace fresco::kernels {
namespace {

at::Tensor Random(uint64_t seed, at::ScalarType type) {
  return at::randn({4096}, at::make_generator<at::CPUGeneratorImpl>(seed), at::TensorOptions()).to(type);
}

template <typename Type>
void ExpectEagerBits(at::ScalarType type) {
  const at::Tensor uncond = Random(1, type), cond = Random(2, type), latent = Random(3, type);
  const float guidance = 4.5f, sigma_delta = -0.0317f;
  const at::Tensor velocity = uncond + (cond - uncond) * guidance;
  // As diffusers: the difference of two sigmas of the velocity's type has no dimensions.
  const at::Tensor difference = at::scalar_tensor(sigma_delta, at::TensorOptions().dtype(type));
  const at::Tensor expected = (latent.to(at::kFloat) + velocity * difference).to(type);

  const at::Tensor actual = latent.clone();
  using Storage = typename Type::Storage;
  auto* values = static_cast<Storage*>(actual.data_ptr());
  const auto* u = static_cast<const Storage*>(uncond.data_ptr());
  const auto* t = static_cast<const Storage*>(cond.data_ptr());
  for (int64_t i = 0; i < actual.numel(); ++i) {
    const float guided = Guided<Type>(Type::Load(u[i]), Type::Load(t[i]), guidance);
    values[i] = Type::Store(EulerStep<Type>(Type::Load(values[i]), guided, sigma_delta));
  }
  EXPECT_TRUE(actual.equal(expected));
}

TEST(GuidanceMath, Float32EqualsEagerTensors) {
  ExpectEagerBits<Float32>(at::kFloat);
}
TEST(GuidanceMath, BFloat16EqualsEagerTensors) {
  ExpectEagerBits<BFloat16>(at::kBFloat16);
}

TEST(BFloat16, RoundsEveryFloatPatternAsLibtorch) {
  // Every upper half with the lower halves at which rounding changes.
  for (uint32_t upper = 0; upper < 0x10000; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const uint32_t bits = upper << 16 | lower;
      float value;
      std::memcpy(&value, &bits, sizeof(value));
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(BFloat16::Load(BFloat16::Store(value))));
      } else {
        ASSERT_EQ(BFloat16::Store(value), c10::BFloat16(value).x) << std::hex << bits;
      }
    }
  }
}

TEST(CudaLibrary, AMissingLibraryIsNotFound) {
  EXPECT_EQ(CudaLibrary::Load("/nonexistent/libfresco_cuda.so").status().code(), absl::StatusCode::kNotFound);
}

TEST(CudaLibrary, AFileThatIsNoLibraryIsRefused) {
  const absl::Status status = CudaLibrary::Load("CMakeLists.txt").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("CMakeLists.txt"), std::string_view::npos);
}

}  // namespace
}  // namespace fresco::kernels
