// The autoencoder in tiles, beside what diffusers computes in tiles (tests/reference/make_vae_tiling.py) and beside
// itself without them.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>
#include <string>

#include "pipeline/models/autoencoder.h"
#include "tests/pipeline/models/pictures.h"
#include "tests/support/reference.h"
#include "tests/support/reference_tensor.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kDemo[] = "models/demo/vae";
const Placement kFp32{at::kCPU, at::kFloat};

VaeOptions Tiled(int tile_size, VaeTiling tiling = VaeTiling::kAlways) {
  VaeOptions options;
  options.tiling = tiling;
  options.tile_size = tile_size;
  return options;
}

Autoencoder LoadMedium(const VaeOptions& options) {
  return Autoencoder::Load(ReferencePath("checkpoints/medium/vae"), kFp32, options).value();
}

struct DiffusersCase {
  std::string name;
  int tile_size;
};

void PrintTo(const DiffusersCase& param, std::ostream* out) {
  *out << param.name;
}

// As a share of the largest value, which is a few times 1: only the order of sums differs.
double LargestError(const at::Tensor& actual, const at::Tensor& expected) {
  return LargestDifference(actual, expected) / expected.abs().max().item<double>();
}

class TilingBesideDiffusers : public ::testing::TestWithParam<DiffusersCase> {
 protected:
  at::Tensor Reference(const std::string& tensor) const { return TensorOf(result_, GetParam().name + "." + tensor); }

  const c10::InferenceMode inference_;
  const ReferenceResult result_{ReferencePath("vae_tiling.safetensors")};
  const Autoencoder model_ = LoadMedium(Tiled(GetParam().tile_size));
};

TEST_P(TilingBesideDiffusers, DecodesTheSame) {
  EXPECT_LE(LargestError(model_.Decode(Reference("z")), Reference("decoded")), 1e-5);
}

TEST_P(TilingBesideDiffusers, EncodesTheSame) {
  const Autoencoder::Posterior posterior = model_.Encode(Reference("decoded"));
  EXPECT_LE(LargestError(at::cat({posterior.mean, posterior.logvar}, 1), Reference("moments")), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(All, TilingBesideDiffusers,
                         ::testing::Values(DiffusersCase{"tile_32", 32}, DiffusersCase{"tile_64", 64},
                                           DiffusersCase{"wide", 32}),
                         [](const auto& info) { return info.param.name; });

// Group norms and the attention see but their tile, here a quarter of the picture's height.
TEST(Tiling, IsNearToTheWholePicture) {
  const c10::InferenceMode inference;
  const Autoencoder whole = Autoencoder::Load(kDemo, kFp32, Tiled(128, VaeTiling::kNever)).value();
  const Autoencoder tiled = Autoencoder::Load(kDemo, kFp32, Tiled(128)).value();
  const at::Tensor sky = Sky(256, 320);
  const at::Tensor z = whole.Encode(sky).mean;
  EXPECT_FALSE(at::equal(whole.Decode(z), tiled.Decode(z)));  // it does tile
  const double decoded = PicturePsnr(tiled.Decode(z), whole.Decode(z));
  RecordProperty("psnr", std::to_string(decoded));
  EXPECT_GE(decoded, 26);
  EXPECT_GE(SignalToError(tiled.Encode(sky).mean, z), 10);
}

// Where tiles would not fade into each other, a smooth sky would jump from one to the next.
TEST(Tiling, LeavesNoSeams) {
  const c10::InferenceMode inference;
  const Autoencoder whole = Autoencoder::Load(kDemo, kFp32, Tiled(128, VaeTiling::kNever)).value();
  const Autoencoder tiled = Autoencoder::Load(kDemo, kFp32, Tiled(128)).value();
  const at::Tensor z = whole.Encode(Sky(256, 320)).mean;
  EXPECT_LE(LargestStep(tiled.Decode(z)), 1.5 * LargestStep(whole.Decode(z)));
}

TEST(Tiling, OfASampleDoesNotDependOnItsBatch) {
  const c10::InferenceMode inference;
  const Autoencoder model = LoadMedium(Tiled(32));
  const at::Tensor z = at::randn({3, model.config().latent_channels, 7, 9});
  const at::Tensor together = model.Decode(z);
  for (int64_t i = 0; i < 3; ++i) EXPECT_TRUE(at::equal(together[i], model.Decode(z.narrow(0, i, 1))[0]));
}

TEST(Tiling, IsChosenByThePicturesSize) {
  const Autoencoder always = LoadMedium(Tiled(512));
  EXPECT_FALSE(always.Tiles(512, 512));
  EXPECT_TRUE(always.Tiles(512, 520));
  const Autoencoder automatic = LoadMedium(VaeOptions());
  EXPECT_FALSE(automatic.Tiles(1024, 1024));
  EXPECT_FALSE(automatic.Tiles(512, 2048));
  EXPECT_TRUE(automatic.Tiles(1024, 1040));
  EXPECT_FALSE(LoadMedium(Tiled(512, VaeTiling::kNever)).Tiles(4096, 4096));
}

TEST(Tiling, OfASizeThatLatentsDoNotDivideIsRefused) {
  for (const int size : {0, -32, 48, 500}) {
    const std::string dir = ReferencePath("checkpoints/medium/vae");
    const absl::Status status = Autoencoder::Load(dir, kFp32, Tiled(size)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(dir), HasSubstr("tile size of " + std::to_string(size)), HasSubstr("32")));
  }
}

}  // namespace
}  // namespace fresco
