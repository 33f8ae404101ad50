// The arithmetic that the CUDA kernels share, against the same formula as libtorch's eager tensors, bit for bit.
#include "pipeline/kernels/guidance_math.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scalar_tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>

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

  at::Tensor next = at::full_like(latent, -7), guided = at::full_like(latent, -7);
  float nonfinite = 0;
  const GuidanceEulerJob job{uncond.const_data_ptr(),
                             cond.const_data_ptr(),
                             latent.const_data_ptr(),
                             guided.data_ptr(),
                             next.data_ptr(),
                             &nonfinite,
                             latent.numel(),
                             guidance,
                             sigma_delta};
  for (int64_t i = 0; i < job.elements; ++i) UpdateElement<Type>(job, i);
  EXPECT_TRUE(next.equal(expected));
  EXPECT_TRUE(guided.equal(velocity));
  EXPECT_EQ(nonfinite, 0);
}

// Of one image without guidance: what becomes of a latent and a velocity, and whether it was found to be not finite.
template <typename Type>
std::pair<float, bool> UpdateOne(float latent, float velocity, float sigma_delta) {
  const auto x = Type::Store(latent), v = Type::Store(velocity);
  auto next = Type::Store(0);
  float nonfinite = 0;
  UpdateElement<Type>({nullptr, &v, &x, nullptr, &next, &nonfinite, 1, 1, sigma_delta}, 0);
  return {Type::Load(next), nonfinite != 0};
}

TEST(GuidanceMath, Float32EqualsEagerTensors) {
  ExpectEagerBits<Float32>(at::kFloat);
}
TEST(GuidanceMath, BFloat16EqualsEagerTensors) {
  ExpectEagerBits<BFloat16>(at::kBFloat16);
}

TEST(GuidanceMath, Float16EqualsEagerTensors) {
  ExpectEagerBits<Float16>(at::kHalf);
}

TEST(GuidanceMath, WithoutGuidanceTheVelocityIsTheConditionalOne) {
  const auto [next, nonfinite] = UpdateOne<Float32>(1.5f, 2.0f, -0.25f);
  EXPECT_EQ(next, 1.0f);
  EXPECT_FALSE(nonfinite);
}

TEST(GuidanceMath, WhatIsNotFiniteIsFoundInTheTypeThatIsStored) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(UpdateOne<BFloat16>(1, std::numeric_limits<float>::quiet_NaN(), -0.1f).second);
  EXPECT_TRUE(UpdateOne<BFloat16>(-kInfinity, 1, -0.1f).second);
  EXPECT_TRUE(UpdateOne<Float16>(65504, -65504, -0.5f).second);  // beyond fp16's largest value
  EXPECT_FALSE(UpdateOne<BFloat16>(65504, -65504, -0.5f).second);
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
