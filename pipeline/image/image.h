// A picture in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fresco {

// 8-bit sRGB, rows top to bottom, interleaved: rgb[(y * width + x) * 3 + channel].
struct Image {
  int width = 0;   // pixels
  int height = 0;  // pixels
  std::vector<uint8_t> rgb;
};

}  // namespace fresco
