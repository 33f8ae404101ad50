// Asks diffusers, in a Python of the user's, what it computes for a request.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "pipeline/checkpoint/safetensors.h"
#include "pipeline/engine/image_spec.h"

namespace fresco {

struct DiffusersRun {
  std::string python;
  std::string model;      // diffusers folder or single file
  std::string base;       // empty: none
  std::string precision;  // fp32 or bf16
  int threads = 0;        // 0: torch's choice
};

// The stages that reference/diffusers_stages.py writes (tests/reference/README.md lists them), of the CPU. The script
// is part of this program; its progress and errors go to standard error. FAILED_PRECONDITION where it fails.
absl::StatusOr<std::shared_ptr<const SafetensorsFile>> RunDiffusers(const DiffusersRun& run, const ImageSpec& spec);

}  // namespace fresco
