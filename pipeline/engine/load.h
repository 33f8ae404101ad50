// Makes an Engine from a checkpoint. Torch-free.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/engine/engine.h"

namespace fresco {

struct LoadOptions {
  std::string name;                // what ModelInfo::name says
  std::string path;                // diffusers folder
  std::string base;                // optional diffusers folder for what `path` lacks; empty: none
  std::string device = "cpu";      // "cpu", "cuda:N"
  std::string precision = "auto";  // fp32 | bf16 | fp16 | auto
  int threads = 0;                 // CPU threads for computing; 0: as many as the machine has
  int64_t prompt_cache_bytes = 256 << 20;
};

// Reads, checks and warms up. Errors name the file and the tensor or key: NOT_FOUND for a missing file,
// INVALID_ARGUMENT for one that is not what it should be, UNIMPLEMENTED for a type or precision that this build cannot
// compute. Call it on the thread that will call the engine.
absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(const LoadOptions& options);

// "cpu" and every usable "cuda:N", best first.
std::vector<std::string> AvailableDevices();

}  // namespace fresco
