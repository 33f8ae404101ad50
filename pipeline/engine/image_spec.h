// What one image is asked to be: the native, torch-free form of a request. One request for N images is N specs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fresco {

struct ImageSpec {
  std::string prompt;
  std::optional<std::string> prompt_2;  // for CLIP-G; absent: prompt
  std::optional<std::string> prompt_3;  // for T5; absent: prompt
  std::string negative_prompt;          // used when guidance_scale > 1; each encoder's
  std::optional<std::string> negative_prompt_2;
  std::optional<std::string> negative_prompt_3;
  int width = 1024;               // pixels, a multiple of ModelInfo::size_multiple
  int height = 1024;              // pixels, likewise
  int steps = 28;                 // denoising steps
  float guidance_scale = 7.0f;    // classifier-free guidance; <= 1 means none: one forward per step instead of two
  uint64_t seed = 0;              // of this image's initial noise; taken modulo 2^32, as ATen's CPU generator is
  int max_sequence_length = 256;  // T5 tokens
  int clip_skip = 0;              // CLIP layers left out before the last but one, positive prompt only
  // Whether what quantisation does to the velocities on average is taken back, where the model has a calibration for
  // it; absent: as the model is configured.
  std::optional<bool> noise_correction;
  // Whether the picture must have the same bits each time on this type of device, whatever else is drawn: where other
  // images in its steps could change them (not ModelInfo::batch_invariant), it has its steps to itself.
  bool deterministic = false;

  bool operator==(const ImageSpec&) const = default;
};

}  // namespace fresco
