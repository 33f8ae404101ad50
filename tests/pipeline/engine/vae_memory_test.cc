// That slicing and tiling bound what decoding takes: libtorch's own allocations, counted.
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <string>

#include "pipeline/engine/memory.h"
#include "pipeline/models/autoencoder.h"

namespace fresco {
namespace {

constexpr char kVae[] = "tests/reference/checkpoints/medium/vae";
constexpr int64_t kMiB = 1 << 20;

class VaeMemory : public ::testing::Test {
 protected:
  VaeMemory() { CountCpuMemory(); }

  static Autoencoder Load(VaeTiling tiling) {
    VaeOptions options;
    options.tiling = tiling;
    options.tile_size = 256;
    return Autoencoder::Load(kVae, {at::kCPU, at::kFloat}, options).value();
  }

  // The most bytes that were allocated while decoding `batch` pictures, beyond what was there before and the pictures
  // themselves.
  static int64_t PeakOf(const Autoencoder& model, int64_t batch, int64_t height, int64_t width) {
    const int64_t downscale = model.config().downscale();
    const at::Tensor z = at::randn({batch, model.config().latent_channels, height / downscale, width / downscale});
    ResetPeakMemory(at::kCPU);
    const int64_t before = MemoryUseOf(at::kCPU).allocated_bytes;
    const at::Tensor pictures = model.Decode(z);
    return MemoryUseOf(at::kCPU).peak_bytes - before - static_cast<int64_t>(pictures.nbytes());
  }

  const c10::InferenceMode inference_;
};

// A picture at a time: of the others there is but the result.
TEST_F(VaeMemory, DoesNotGrowWithTheBatch) {
  const Autoencoder model = Load(VaeTiling::kNever);
  const int64_t one = PeakOf(model, 1, 256, 256);
  RecordProperty("one", std::to_string(one));
  const int64_t picture = 3 * 256 * 256 * 4;  // which is in its sample's memory before it is in the batch's
  EXPECT_LE(PeakOf(model, 6, 256, 256), one + picture);
}

// Pictures in tiles take what one tile takes with its result, a row's seams (a quarter of each of six tiles, and that
// of the tile on the left), and the latents and those of a tile in the layout that convolutions like.
TEST_F(VaeMemory, DoesNotGrowWithThePictureInTiles) {
  const Autoencoder tiled = Load(VaeTiling::kAlways);
  const int64_t tile = PeakOf(tiled, 1, 256, 256) + 3 * 256 * 256 * 4;
  const int64_t seams = (6 + 1) * 3 * 64 * 256 * 4;
  const int64_t latents = 16 * (128 * 128 + 32 * 32) * 4;
  const int64_t square = PeakOf(tiled, 1, 1024, 1024), whole = PeakOf(Load(VaeTiling::kNever), 1, 1024, 1024);
  std::printf("1024x1024: %.1f MiB whole, %.1f MiB in tiles of 256 (one alone: %.1f MiB)\n",
              static_cast<double>(whole) / kMiB, static_cast<double>(square) / kMiB, static_cast<double>(tile) / kMiB);
  EXPECT_LE(square, tile + seams + latents);
  EXPECT_LE(square, whole / 8);
}

}  // namespace
}  // namespace fresco
