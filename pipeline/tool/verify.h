// `fresco-model verify`: a checkpoint, stage by stage, beside diffusers.
#pragma once

#include <string>

#include "pipeline/tool/options.h"

namespace fresco {

struct VerifyOptions {
  std::string precision = "fp32";  // of both sides: fp32 or bf16
  std::string python;              // has torch, diffusers and transformers; empty: "python3"
};

// Runs diffusers on the CPU for one request (reference/diffusers_stages.py), computes each stage from the same inputs,
// and prints how far they are apart and how far they may be. Returns an exit code: kFailed where a stage differs by
// more, or nothing could be compared.
int RunVerify(const ModelOptions& model, const DrawOptions& draw, const VerifyOptions& options);

}  // namespace fresco
