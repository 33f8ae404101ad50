#include "pipeline/diffusion/sampling.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <vector>

namespace fresco {
namespace {

std::vector<float> Values(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.to(at::kFloat).contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

// Values of torch 2.11.0: torch.randn((1, 16, 2, 3), generator=torch.Generator("cpu").manual_seed(seed)).
struct Noise {
  uint64_t seed;
  float at_0, at_1, at_17, at_95;
};

class NoiseOfSeed : public ::testing::TestWithParam<Noise> {};

TEST_P(NoiseOfSeed, IsTorchs) {
  const std::vector<float> noise = Values(DrawNoise(GetParam().seed, 16, 2, 3));
  ASSERT_EQ(noise.size(), 96u);
  EXPECT_EQ(noise[0], GetParam().at_0);
  EXPECT_EQ(noise[1], GetParam().at_1);
  EXPECT_EQ(noise[17], GetParam().at_17);
  EXPECT_EQ(noise[95], GetParam().at_95);
}

INSTANTIATE_TEST_SUITE_P(Seeds, NoiseOfSeed,
                         ::testing::Values(Noise{0, -1.12583983f, -1.1523602f, -1.6959312f, 0.710086584f},
                                           Noise{7, -0.820134521f, 0.395631164f, -0.324566633f, 1.42055094f},
                                           Noise{4294967295u, -2.66429758f, -1.0910486f, -0.876585186f, 1.43798316f},
                                           Noise{9223372036854788153u, -1.47980773f, 0.487305999f, -1.13709664f,
                                                 -0.555342019f}));

TEST(Noise, OfFewerThanSixteenValuesTakesTorchsOtherPath) {
  const std::vector<float> expected = {-0.1467950940132141f, 0.7861412763595581f, 0.9468216300010681f,
                                       -1.1143440008163452f, 1.6907901763916016f, -0.8948279023170471f};
  EXPECT_EQ(Values(DrawNoise(7, 2, 1, 3)), expected);
}

TEST(Noise, SeedCountsModulo2To32) {
  EXPECT_EQ(Values(DrawNoise(5, 4, 2, 2)), Values(DrawNoise((uint64_t{1} << 32) + 5, 4, 2, 2)));
  EXPECT_NE(Values(DrawNoise(5, 4, 2, 2)), Values(DrawNoise(6, 4, 2, 2)));
}

// Expected values: the expressions of diffusers' pipeline and scheduler, evaluated by torch 2.11.0 and diffusers
// 0.42.1.
class Arithmetic : public ::testing::Test {
 protected:
  const at::Tensor negative_ = at::tensor({0.1f, -1.3f, 2.7f, 0.003f});
  const at::Tensor positive_ = at::tensor({0.25f, -1.1f, 2.65f, -0.4f});
  const at::Tensor latents_ = at::tensor({1.5f, -0.7f, 0.01f, 3.3f});
  static constexpr float kSigma = 0.941373229f;  // step 3 of 20 at shift 3
  static constexpr float kNext = 0.918651521f;
};

TEST_F(Arithmetic, GuidanceInFp32) {
  EXPECT_EQ(Values(Guide(negative_, positive_, 4.5f)),
            (std::vector<float>{0.775000036f, -0.400000274f, 2.47500038f, -1.81049991f}));
  EXPECT_EQ(Values(Guide(negative_, positive_, 7.1f)),
            (std::vector<float>{1.16500008f, 0.119999528f, 2.34500027f, -2.85829997f}));
}

TEST_F(Arithmetic, GuidanceInBf16RoundsAfterEachOperation) {
  const at::Tensor negative = negative_.to(at::kBFloat16), positive = positive_.to(at::kBFloat16);
  EXPECT_EQ(Guide(negative, positive, 4.5f).scalar_type(), at::kBFloat16);
  EXPECT_EQ(Values(Guide(negative, positive, 4.5f)),
            (std::vector<float>{0.77734375f, -0.41796875f, 2.5f, -1.8203125f}));
  EXPECT_EQ(Values(Guide(negative, positive, 7.1f)), (std::vector<float>{1.171875f, 0.09375f, 2.375f, -2.875f}));
}

TEST_F(Arithmetic, EulerStepInFp32) {
  const at::Tensor velocity = Guide(negative_, positive_, 4.5f);
  EXPECT_EQ(Values(EulerStep(latents_, velocity, kSigma, kNext)),
            (std::vector<float>{1.48239064f, -0.690911293f, -0.0462362394f, 3.34113765f}));
}

TEST_F(Arithmetic, EulerStepInBf16AddsInFp32AndReturnsBf16) {
  const at::Tensor velocity = Guide(negative_.to(at::kBFloat16), positive_.to(at::kBFloat16), 4.5f);
  const at::Tensor next = EulerStep(latents_.to(at::kBFloat16), velocity, kSigma, kNext);
  EXPECT_EQ(next.scalar_type(), at::kBFloat16);
  EXPECT_EQ(Values(next), (std::vector<float>{1.484375f, -0.69140625f, -0.0466308594f, 3.34375f}));
}

TEST_F(Arithmetic, DenoisedEstimateUndoesTheNoiseOfAStraightPath) {
  // x = (1 - sigma) x0 + sigma noise, whose velocity is noise - x0.
  const at::Tensor x0 = positive_, noise = latents_;
  const at::Tensor x = x0.mul(1 - kSigma).add(noise.mul(kSigma));
  const std::vector<float> estimate = Values(EstimateDenoised(x, noise.sub(x0), kSigma));
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(estimate[i], Values(x0)[i], 1e-6);
}

}  // namespace
}  // namespace fresco
