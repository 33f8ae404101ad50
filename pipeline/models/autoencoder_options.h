// How an autoencoder computes. Torch-free: a configuration holds it.
#pragma once

#include <string_view>

namespace fresco {

enum class VaeTiling { kAuto, kAlways, kNever };
enum class VaePrecision { kAuto, kFp8 };

// By the enumerators' values.
inline constexpr std::string_view kVaeTilingNames[] = {"auto", "always", "never"};
inline constexpr std::string_view kVaePrecisionNames[] = {"auto", "fp8"};

struct VaeOptions {
  // Pictures in overlapping tiles, one after the other, so that memory does not grow with the picture. Tiles see only
  // themselves: the result is near to that of the whole picture, not equal. kAlways: pictures with a side longer than
  // tile_size. kAuto: of these the ones with more than kAutoTilingPixels.
  VaeTiling tiling = VaeTiling::kAuto;
  int tile_size = 512;  // pixels a side: a multiple of kTileSizeMultiple
  // kAuto: the model's own type. kFp8: weights and activations of the convolutions and linears between the first and
  // the last are in E4M3.
  VaePrecision precision = VaePrecision::kAuto;
  // Of kFp8: each activation tensor has a scale of its own, so that none saturates. Without it there are no scales:
  // naive FP8, whose skies band, to compare with.
  bool overflow_guard = true;

  static constexpr int kAutoTilingPixels = 1024 * 1024;
  static constexpr int kTileSizeMultiple = 32;  // four latents: tiles overlap by a quarter
  static constexpr int kSmallestTile = 128;
};

}  // namespace fresco
