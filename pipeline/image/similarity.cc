#include "pipeline/image/similarity.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr int kChannels = 3;
constexpr double kPeak = 255;
constexpr int kRadius = 5;  // 3.5 sigma
constexpr int kWindow = 2 * kRadius + 1;
constexpr double kSigma = 1.5;
constexpr double kC1 = (0.01 * kPeak) * (0.01 * kPeak);
constexpr double kC2 = (0.03 * kPeak) * (0.03 * kPeak);

absl::Status CheckSameSize(const Image& a, const Image& b) {
  if (a.width == b.width && a.height == b.height) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("pictures of ", a.width, "x", a.height, " and ", b.width, "x", b.height, " pixels cannot be compared"));
}

std::array<double, kWindow> GaussianWindow() {
  std::array<double, kWindow> window;
  double sum = 0;
  for (int i = 0; i < kWindow; ++i) {
    const double distance = i - kRadius;
    sum += window[i] = std::exp(-0.5 * distance * distance / (kSigma * kSigma));
  }
  for (double& weight : window) weight /= sum;
  return window;
}

struct Plane {
  int width = 0, height = 0;
  std::vector<double> values;
};

// The plane's weighted means, where the window lies within it.
Plane Smooth(const Plane& plane) {
  static const std::array<double, kWindow> kWeights = GaussianWindow();
  const int width = plane.width - 2 * kRadius, height = plane.height - 2 * kRadius;
  std::vector<double> rows(static_cast<size_t>(width) * plane.height);
  for (int y = 0; y < plane.height; ++y) {
    const double* from = &plane.values[static_cast<size_t>(y) * plane.width];
    double* to = &rows[static_cast<size_t>(y) * width];
    for (int x = 0; x < width; ++x) {
      for (int i = 0; i < kWindow; ++i) to[x] += kWeights[i] * from[x + i];
    }
  }
  Plane smooth{width, height, std::vector<double>(static_cast<size_t>(width) * height)};
  for (int y = 0; y < height; ++y) {
    double* to = &smooth.values[static_cast<size_t>(y) * width];
    for (int i = 0; i < kWindow; ++i) {
      const double* from = &rows[static_cast<size_t>(y + i) * width];
      for (int x = 0; x < width; ++x) to[x] += kWeights[i] * from[x];
    }
  }
  return smooth;
}

// The product of two pictures' channel, smoothed; of one alone where `b` is null.
Plane SmoothProduct(const Image& a, const Image* b, int channel) {
  Plane plane{a.width, a.height, std::vector<double>(static_cast<size_t>(a.width) * a.height)};
  for (size_t i = 0; i < plane.values.size(); ++i) {
    const size_t at = i * kChannels + channel;
    plane.values[i] = double{1} * a.rgb[at] * (b == nullptr ? 1 : b->rgb[at]);
  }
  return Smooth(plane);
}

double ChannelSsim(const Image& a, const Image& b, int channel) {
  const Plane mean_a = SmoothProduct(a, nullptr, channel), mean_b = SmoothProduct(b, nullptr, channel);
  const Plane aa = SmoothProduct(a, &a, channel), bb = SmoothProduct(b, &b, channel);
  const Plane ab = SmoothProduct(a, &b, channel);
  double sum = 0;
  for (size_t i = 0; i < ab.values.size(); ++i) {
    const double ma = mean_a.values[i], mb = mean_b.values[i];
    const double variances = aa.values[i] - ma * ma + bb.values[i] - mb * mb;
    const double covariance = ab.values[i] - ma * mb;
    sum += (2 * ma * mb + kC1) * (2 * covariance + kC2) / ((ma * ma + mb * mb + kC1) * (variances + kC2));
  }
  return sum / static_cast<double>(ab.values.size());
}

}  // namespace

absl::StatusOr<double> Psnr(const Image& a, const Image& b) {
  if (absl::Status same = CheckSameSize(a, b); !same.ok()) return same;
  double squares = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i) {
    const double difference = double{1} * a.rgb[i] - b.rgb[i];
    squares += difference * difference;
  }
  if (squares == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(kPeak * kPeak * static_cast<double>(a.rgb.size()) / squares);
}

absl::StatusOr<double> Ssim(const Image& a, const Image& b) {
  if (absl::Status same = CheckSameSize(a, b); !same.ok()) return same;
  if (a.width < kWindow || a.height < kWindow) {
    return absl::InvalidArgumentError(
        StrCat("a picture of ", a.width, "x", a.height, " pixels is smaller than the window of SSIM, ", kWindow));
  }
  double sum = 0;
  for (int channel = 0; channel < kChannels; ++channel) sum += ChannelSsim(a, b, channel);
  return sum / kChannels;
}

Image DifferencePicture(const Image& a, const Image& b, int gain) {
  Image picture{a.width, a.height, std::vector<uint8_t>(a.rgb.size())};
  for (size_t i = 0; i < a.rgb.size(); ++i) {
    picture.rgb[i] = static_cast<uint8_t>(std::clamp(128 + gain * (a.rgb[i] - b.rgb[i]), 0, 255));
  }
  return picture;
}

}  // namespace fresco
