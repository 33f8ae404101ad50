// What the subcommands share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "pipeline/models/autoencoder_options.h"
#include "pipeline/precision/scheme.h"

namespace fresco {

// Exit codes.
inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;  // or a mismatch
inline constexpr int kUsage = 2;

struct ModelOptions {
  std::string model;  // diffusers folder or single file
  std::string base;   // what supplies what it lacks; empty: none
  std::string device = "cpu";
  std::string precision = "auto";
  VaeOptions vae;
  std::string calibration;                   // file; empty: calibration.json in `model`, if it is there
  std::optional<AttentionScheme> attention;  // LoadOptions'
  bool static_scales = false;                // LoadOptions'
  bool overflow_guard = true;                // LoadOptions'
  int64_t budget = 0;                        // bytes of the device's memory (LoadOptions::memory); 0: no bound
  std::string kernel_choices;                // LoadOptions'
  int threads = 0;                           // 0: as many as the machine has
  int64_t memory_limit = 0;                  // bytes that tensors may take of the device; 0: as many as there are
  bool json = false;                         // one JSON object on standard output, nothing else there
};

// What is drawn. Where it is unset, the model's own default counts.
struct DrawOptions {
  std::optional<std::string> prompt;
  std::optional<std::string> negative;
  std::optional<int> width;
  std::optional<int> height;
  std::optional<int> steps;
  std::optional<float> guidance;
  std::optional<int> max_sequence_length;
  std::optional<bool> noise_correction;
  uint64_t seed = 0;
};

}  // namespace fresco
