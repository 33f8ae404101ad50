// `fresco-model draw`: a picture without a server.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"
#include "pipeline/tool/options.h"

namespace fresco {

// The request in full: what it leaves out, the model's defaults fill in.
ImageSpec SpecOf(const DrawOptions& options, const ModelInfo& info);

// The same of each prompt, the first with the seed of `options`, the next with the next.
std::vector<ImageSpec> SpecsOf(const std::vector<std::string>& prompts, DrawOptions options, const ModelInfo& info);

// The model's name is its path.
LoadOptions LoadOptionsOf(const ModelOptions& model);

// Draws, shows each step on standard error, writes a PNG to `output`.
absl::Status RunDraw(const ModelOptions& model, const DrawOptions& draw, const std::string& output);

}  // namespace fresco
