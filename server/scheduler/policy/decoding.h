// Where a device decodes finished images.
#pragma once

#include <array>
#include <string_view>

namespace fresco {

// Between a device's steps, on the thread that makes them, for about a step's time at a boundary; or beside them, on a
// thread (and a GPU's stream) of its own, where no step waits for them. kAuto: beside on a GPU; between on a CPU, whose
// cores the steps use (docs/SCHEDULING.md, Stages).
enum class Decoding { kAuto, kBetweenSteps, kBesideSteps };
inline constexpr std::array<std::string_view, 3> kDecodingNames = {"auto", "between-steps", "beside-steps"};

// `device`: "cpu", "cuda:0".
inline bool DecodesBesideSteps(Decoding decoding, std::string_view device) {
  return decoding == Decoding::kBesideSteps || (decoding == Decoding::kAuto && device.starts_with("cuda"));
}

}  // namespace fresco
