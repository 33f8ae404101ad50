#include "pipeline/image/similarity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "pipeline/image/codec.h"

namespace fresco {
namespace {

using Json = nlohmann::json;

Image DemoPicture(int number) {
  std::ostringstream bytes;
  bytes << std::ifstream("models/demo/reference/" + std::to_string(number) + ".png", std::ios::binary).rdbuf();
  return DecodeImage(bytes.str()).value().image;
}

// As tests/reference/make_similarity_reference.py cuts it and makes it noisy.
Image CaseOf(const Image& whole, int width, int height, int noise) {
  Image image{width, height, {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c) {
        const int value = whole.rgb[(static_cast<size_t>(y) * whole.width + x) * 3 + c];
        const int added = (7 * x + 13 * y + 5 * c) % (2 * noise + 1) - noise;
        image.rgb.push_back(static_cast<uint8_t>(std::clamp(value + added, 0, 255)));
      }
    }
  }
  return image;
}

TEST(Similarity, IsScikitImages) {
  std::ifstream file("tests/reference/similarity.json");
  const Json cases = Json::parse(file);
  ASSERT_EQ(cases.size(), 5u);
  for (const Json& one : cases) {
    const int width = one["width"], height = one["height"];
    const Image a = CaseOf(DemoPicture(one["a"]), width, height, 0);
    const Image b = CaseOf(DemoPicture(one["b"]), width, height, one["noise"]);
    EXPECT_NEAR(Psnr(a, b).value(), one["psnr"].get<double>(), 1e-9) << one;
    EXPECT_NEAR(Ssim(a, b).value(), one["ssim"].get<double>(), 1e-9) << one;
    EXPECT_DOUBLE_EQ(Ssim(a, b).value(), Ssim(b, a).value());
  }
}

TEST(Similarity, OfEqualPictures) {
  const Image image = DemoPicture(0);
  EXPECT_TRUE(std::isinf(Psnr(image, image).value()));
  EXPECT_DOUBLE_EQ(Ssim(image, image).value(), 1);
}

TEST(Similarity, RefusesWhatCanNotBeCompared) {
  const Image image = CaseOf(DemoPicture(0), 16, 16, 0);
  const Image other = CaseOf(DemoPicture(0), 16, 15, 0), narrow = CaseOf(DemoPicture(0), 10, 16, 0);
  EXPECT_EQ(Psnr(image, other).status().message(), "pictures of 16x16 and 16x15 pixels cannot be compared");
  EXPECT_EQ(Ssim(image, other).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Ssim(narrow, narrow).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Psnr(narrow, narrow).ok());
}

TEST(DifferencePicture, IsGreyWhereNothingDiffers) {
  const Image a{3, 1, {10, 20, 30, 10, 20, 30, 200, 0, 90}};
  const Image b{3, 1, {10, 20, 30, 11, 18, 30, 100, 255, 90}};
  EXPECT_EQ(DifferencePicture(a, b, 8).rgb, (std::vector<uint8_t>{128, 128, 128, 120, 144, 128, 255, 0, 128}));
}

}  // namespace
}  // namespace fresco
