// What drawing takes of a device, and with which settings it would take less: by MemoryPlanner's predictions.
// Torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pipeline/engine/load.h"
#include "pipeline/engine/memory_plan.h"

namespace fresco {

struct MemoryAdvice {
  int64_t needed_bytes = 0;           // that the model and the images take together at the most; 0: not known
  std::string needed_for;             // when that is: "a step", "decoding", "text_encoder_3"
  std::vector<std::string> remedies;  // settings with which that is less than `available`: "precision: fp8 (812 MiB)"
};

// Of a model as `options` load it, where `load` had no room in `available` bytes. Each remedy has been predicted to
// fit, with a margin for what predictions miss; first those that leave the picture as it is. Reads configurations;
// empty where they cannot be read.
MemoryAdvice AdviseOnMemory(const LoadOptions& options, const MemoryLoad& load, int64_t available);

}  // namespace fresco
