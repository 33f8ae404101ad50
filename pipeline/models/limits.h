// What a configuration may say at most: far above any real model, low enough that sizes computed from it cannot
// overflow.
#pragma once

#include <cstdint>

namespace fresco {

inline constexpr int64_t kMaxWidth = 1 << 17;
inline constexpr int64_t kMaxLayers = 1 << 10;
inline constexpr int64_t kMaxVocabulary = 1 << 24;
inline constexpr int64_t kMaxPositions = 1 << 16;

}  // namespace fresco
