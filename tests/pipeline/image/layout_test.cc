#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <utility>

#include "pipeline/image/contact_sheet.h"
#include "pipeline/image/resize.h"

namespace fresco {
namespace {

Image Solid(int width, int height, uint8_t value) {
  return {width, height, std::vector<uint8_t>(size_t{3} * width * height, value)};
}

Image Noise(int width, int height) {
  Image image = Solid(width, height, 0);
  uint32_t state = 1;
  for (uint8_t& value : image.rgb) value = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  return image;
}

std::array<int, 3> Pixel(const Image& image, int x, int y) {
  const uint8_t* rgb = &image.rgb.at((size_t{1} * y * image.width + x) * 3);
  return {rgb[0], rgb[1], rgb[2]};
}

// The definition, in floating point: the integral over the covered area.
double MeanOfArea(const Image& image, double left, double top, double right, double bottom, int channel) {
  double sum = 0;
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      const double wide = std::max(0.0, std::min(right, x + 1.0) - std::max(left, double(x)));
      const double high = std::max(0.0, std::min(bottom, y + 1.0) - std::max(top, double(y)));
      sum += wide * high * Pixel(image, x, y)[channel];
    }
  }
  return sum / ((right - left) * (bottom - top));
}

TEST(ResizeTest, EachPixelIsTheMeanOfItsArea) {
  const Image image = Noise(23, 17);
  for (const auto& [width, height] : {std::pair{7, 5}, {23, 17}, {1, 1}, {10, 30}}) {
    const Image small = ResizeArea(image, width, height);
    ASSERT_EQ(small.rgb.size(), size_t{3} * width * height);
    const double sx = 23.0 / width, sy = 17.0 / height;
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        const double mean = MeanOfArea(image, x * sx, y * sy, (x + 1) * sx, (y + 1) * sy, 1);
        EXPECT_NEAR(Pixel(small, x, y)[1], mean, 0.5 + 1e-9);
      }
    }
  }
}

TEST(ResizeTest, FitInsideKeepsProportionsAndNeverEnlarges) {
  const auto size = [](int width, int height, int side) {
    const Image image = FitInside(Solid(width, height, 9), side);
    return std::pair(image.width, image.height);
  };
  EXPECT_EQ(size(100, 50, 20), std::pair(20, 10));
  EXPECT_EQ(size(50, 100, 20), std::pair(10, 20));
  EXPECT_EQ(size(1000, 1, 20), std::pair(20, 1));
  EXPECT_EQ(size(8, 6, 20), std::pair(8, 6));
}

TEST(ContactSheetTest, LaysPicturesOutInReadingOrder) {
  ContactSheetOptions options;
  options.columns = 2;
  options.cell = 4;
  options.padding = 1;
  options.background = 0;
  const Image sheet = ContactSheet({Solid(8, 8, 10), Solid(4, 4, 20), Solid(4, 2, 30)}, options).value();
  EXPECT_EQ(sheet.width, 1 + 4 + 1 + 4 + 1);
  EXPECT_EQ(sheet.height, 11);
  EXPECT_EQ(Pixel(sheet, 0, 0)[0], 0);
  EXPECT_EQ(Pixel(sheet, 1, 1)[0], 10);
  EXPECT_EQ(Pixel(sheet, 4, 4)[0], 10);
  EXPECT_EQ(Pixel(sheet, 5, 1)[0], 0);
  EXPECT_EQ(Pixel(sheet, 6, 1)[0], 20);
  EXPECT_EQ(Pixel(sheet, 1, 6)[0], 0);  // centred: a row of background above and below
  EXPECT_EQ(Pixel(sheet, 1, 7)[0], 30);
  EXPECT_EQ(Pixel(sheet, 1, 8)[0], 30);
  EXPECT_EQ(Pixel(sheet, 1, 9)[0], 0);
  EXPECT_EQ(Pixel(sheet, 6, 7)[0], 0);  // no fourth picture
}

TEST(ContactSheetTest, ChoosesAboutAsManyColumnsAsRows) {
  ContactSheetOptions options;
  options.padding = 0;
  const auto size = [&](size_t count) {
    const Image sheet = ContactSheet(std::vector<Image>(count, Solid(2, 2, 1)), options).value();
    return std::pair(sheet.width / 2, sheet.height / 2);
  };
  EXPECT_EQ(size(1), std::pair(1, 1));
  EXPECT_EQ(size(3), std::pair(2, 2));
  EXPECT_EQ(size(9), std::pair(3, 3));
  EXPECT_EQ(size(10), std::pair(4, 3));
}

TEST(ContactSheetTest, RefusesNoneAndTooMany) {
  EXPECT_EQ(ContactSheet({}, {}).status().code(), absl::StatusCode::kInvalidArgument);
  ContactSheetOptions options;
  options.padding = 1 << 20;
  EXPECT_EQ(ContactSheet({Solid(1, 1, 1)}, options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace fresco
