// GroupNorm over a channels-last image, with SiLU, and a sum of two images: what a GPU is asked to do. Plain structs,
// passed by value; pointers are to memory of the device that computes, aligned to 16 bytes. Elements are bfloat16 or
// fp16, all alike. An image may be a convolution's sums, whose bias is added on the way, in fp32.
#pragma once

#include <cstdint>

namespace fresco::kernels {

// Group g is channels [g, g + 1) * channels / groups of all pixels. Of each:
//   out = (x - mean) / sqrt(variance + eps) * weight + bias       then, for `silu`, out / (1 + e^-out), rounded once
// Pixel p is in run p % runs: a lane adds a run up, so that lanes that adjoin read memory that adjoins. Of a run and a
// channel there is a mean, and the sum of squares of the differences to it.
struct GroupNormJob {
  int64_t pixels = 0;
  int64_t runs = 1;  // GroupNormRuns, no more than pixels
  int32_t channels = 0;
  int32_t groups = 1;
  const void* x = nullptr;       // [pixels, channels]
  const void* x_bias = nullptr;  // [channels], which belongs to x; or null
  const void* weight = nullptr;  // [channels]
  const void* bias = nullptr;    // [channels]
  float eps = 0;
  bool silu = false;
  float* means = nullptr;    // [runs, channels], to work with; so are
  float* squares = nullptr;  // [runs, channels] and
  float* affine = nullptr;   // [3, channels]: of each channel what to subtract, to multiply by, and to add
  void* out = nullptr;       // [pixels, channels]; may be x
};

// out = x + x_bias + y, rounded once.
struct AddImagesJob {
  int64_t pixels = 0;
  int32_t channels = 0;
  const void* x = nullptr;       // [pixels, channels]
  const void* x_bias = nullptr;  // [channels], or null
  const void* y = nullptr;       // [pixels, channels]
  void* out = nullptr;           // [pixels, channels]; may be x or y
};

// Changes when the structs do: a library built from others would read nonsense.
constexpr int64_t kImageJobsLayout = static_cast<int64_t>(sizeof(GroupNormJob)) * 1009 + sizeof(AddImagesJob);

// Lanes that fill a large GPU with loads under way, each of which takes 16 bytes at once, and pixels that are worth a
// lane's results. So means and squares are 4 MiB at the most, or a sixteenth of x in bf16.
constexpr int64_t kGroupNormLanes = 65536;
constexpr int64_t kLeastPixelsPerRun = 32;

inline int64_t GroupNormRuns(int64_t pixels, int64_t channels) {
  constexpr int64_t kChannelsPerLane = 8;
  const int64_t most = kGroupNormLanes * kChannelsPerLane / channels;
  const int64_t worth = (pixels + kLeastPixelsPerRun - 1) / kLeastPixelsPerRun;
  const int64_t runs = most < worth ? most : worth;
  return runs < 1 ? 1 : runs;
}

}  // namespace fresco::kernels
