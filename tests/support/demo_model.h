// The model that ships, for tests of exactness.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "pipeline/engine/load.h"

namespace fresco {

inline std::unique_ptr<Engine> LoadDemo(const std::string& precision = "fp32", int threads = 2,
                                        const std::string& device = "cpu") {
  LoadOptions options;
  options.name = "demo";
  options.path = "models/demo";
  options.device = device;
  options.precision = precision;
  options.threads = threads;
  return LoadEngine(options).value();
}

inline ImageSpec DeterministicSpec(const std::string& prompt, int width, int height, int steps, float guidance,
                                   uint64_t seed) {
  ImageSpec spec;
  spec.prompt = prompt;
  spec.negative_prompt = "blurry";
  spec.width = width;
  spec.height = height;
  spec.steps = steps;
  spec.guidance_scale = guidance;
  spec.seed = seed;
  spec.max_sequence_length = 32;
  spec.deterministic = true;
  return spec;
}

}  // namespace fresco
