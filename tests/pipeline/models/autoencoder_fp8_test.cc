// The autoencoder in FP8, with its overflow guard and without, on the demo model and on a copy of it whose activations
// have been made large without changing what it computes.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pipeline/models/autoencoder.h"
#include "tests/pipeline/checkpoint/file_maker.h"
#include "tests/pipeline/models/pictures.h"
#include "tests/support/reference.h"
#include "tests/support/reference_tensor.h"

namespace fresco {
namespace {

constexpr char kDemo[] = "models/demo/vae";
constexpr char kWeights[] = "diffusion_pytorch_model.safetensors";
const Placement kFp32{at::kCPU, at::kFloat};

VaeOptions Fp8(bool guarded) {
  VaeOptions options;
  options.precision = VaePrecision::kFp8;
  options.overflow_guard = guarded;
  return options;
}

// A folder with the demo's autoencoder in fp32, in which the decoder's activations between conv_in and the first
// upsampler are 4096 times larger, and the upsampler's weight as much smaller. Group norms make up for it everywhere
// else, so that the picture stays the same.
class Planted {
 public:
  Planted() {
    const ReferenceResult demo(std::string(kDemo) + "/" + kWeights);
    nlohmann::json header;
    std::string data;
    for (const std::string& name : demo.Names()) {
      const at::Tensor tensor = (TensorOf(demo, name).to(at::kFloat) * FactorOf(name)).contiguous();
      const size_t begin = data.size();
      data.append(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
      header[name] = {{"dtype", "F32"}, {"shape", tensor.sizes().vec()}, {"data_offsets", {begin, data.size()}}};
    }
    folder_.Write(kWeights, SafetensorsBytes(header.dump(), data));
    std::filesystem::copy(std::string(kDemo) + "/config.json", folder_.path());
  }

  const std::string& path() const { return folder_.path(); }
  static constexpr char kLayer[] = "vae.decoder.up_blocks.0.upsamplers.0.conv";

 private:
  static double FactorOf(const std::string& name) {
    constexpr double kLarger = 4096;
    if (name == "decoder.up_blocks.0.upsamplers.0.conv.weight") return 1 / kLarger;
    const bool before = name.starts_with("decoder.mid_block.") || name.starts_with("decoder.up_blocks.0.resnets.");
    const bool added = name.find(".conv2.") != std::string::npos || name.find(".to_out.0.") != std::string::npos;
    return name.starts_with("decoder.conv_in.") || (before && added) ? kLarger : 1;
  }

  TempFolder folder_;
};

class Fp8Autoencoder : public ::testing::Test {
 protected:
  Autoencoder Load(const std::string& dir, const VaeOptions& options, const Placement& placement = kFp32) const {
    return Autoencoder::Load(dir, placement, options, saturation_).value();
  }

  // In dB, beside the picture in fp32.
  double PsnrOf(const char* what, const at::Tensor& picture) const {
    const double psnr = PicturePsnr(picture, picture_);
    RecordProperty(what, std::to_string(psnr));
    return psnr;
  }

  const c10::InferenceMode inference_;
  const std::shared_ptr<SaturationCount> saturation_ = std::make_shared<SaturationCount>();
  const Autoencoder high_ = Load(kDemo, {});
  const at::Tensor z_ = high_.Encode(Sky(256, 256)).mean;
  const at::Tensor picture_ = high_.Decode(z_);
};

TEST_F(Fp8Autoencoder, GuardedIsNearToFp32AndSaturatesNothing) {
  EXPECT_GE(PsnrOf("guarded", Load(kDemo, Fp8(true)).Decode(z_)), 40);
  EXPECT_GT(saturation_->Total().elements, 0);
  EXPECT_EQ(saturation_->Total().saturated, 0);
}

TEST_F(Fp8Autoencoder, GuardedIsNearInBf16Too) {
  const Autoencoder model = Load(kDemo, Fp8(true), {at::kCPU, at::kBFloat16});
  const at::Tensor picture = model.Decode(z_.to(at::kBFloat16));
  EXPECT_EQ(picture.scalar_type(), at::kBFloat16);
  EXPECT_GE(PsnrOf("guarded", picture), 40);
}

TEST_F(Fp8Autoencoder, EncodesToo) {
  EXPECT_GE(SignalToError(Load(kDemo, Fp8(true)).Encode(Sky(256, 256)).mean, z_), 20);
}

TEST_F(Fp8Autoencoder, TheGuardKeepsASkyOfLargeActivationsThatNaiveFp8Ruins) {
  const Planted planted;
  ASSERT_GE(PsnrOf("fp32", Load(planted.path(), {}).Decode(z_)), 80);  // the plant is no change in fp32
  EXPECT_GE(PsnrOf("guarded", Load(planted.path(), Fp8(true)).Decode(z_)), 40);
  EXPECT_EQ(saturation_->Total().saturated, 0);

  EXPECT_LE(PsnrOf("naive", Load(planted.path(), Fp8(false)).Decode(z_)), 20);
  const std::vector<SaturationCount::Layer> worst = saturation_->Worst(1);
  ASSERT_EQ(worst.size(), 1u);
  EXPECT_EQ(worst.front().name, Planted::kLayer);
  EXPECT_GT(worst.front().activations.saturated, worst.front().activations.elements / 4);
}

TEST_F(Fp8Autoencoder, ASampleDoesNotDependOnItsBatch) {
  const Autoencoder model = Load(kDemo, Fp8(true));
  const at::Tensor other = high_.Encode(Sky(64, 64).flip(2)).mean, z = high_.Encode(Sky(64, 64)).mean;
  const at::Tensor together = model.Decode(at::cat({other * 3, z}));
  EXPECT_TRUE(at::equal(together[1], model.Decode(z)[0]));
}

// What is before and after the blocks, norms and biases stay high.
TEST_F(Fp8Autoencoder, WeightsTakeLittleMoreThanHalfOfBf16) {
  const double fp8 = static_cast<double>(Load(kDemo, Fp8(true), {at::kCPU, at::kBFloat16}).weight_bytes());
  const double bf16 = static_cast<double>(Load(kDemo, {}, {at::kCPU, at::kBFloat16}).weight_bytes());
  EXPECT_LE(fp8 / bf16, 0.54);
}

}  // namespace
}  // namespace fresco
