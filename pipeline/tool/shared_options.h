// The options that several subcommands have, each into the place that it is for. What they are given outlives the
// parsing.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "pipeline/models/autoencoder_options.h"
#include "pipeline/tool/options.h"

namespace fresco {

// --base, and --model, which has a place as well. The latter is returned.
CLI::Option* AddModel(CLI::App* command, ModelOptions* options);
void AddNeededModel(CLI::App* command, ModelOptions* options);
// --device, --threads
void AddDevice(CLI::App* command, ModelOptions* options);
CLI::Option* AddMemoryLimit(CLI::App* command, ModelOptions* options);
CLI::Option* AddBudget(CLI::App* command, int64_t* bytes, const char* description);
void AddPrecision(CLI::App* command, ModelOptions* options);
// --vae-…
void AddVae(CLI::App* command, VaeOptions* vae);
// --attention
void AddAttention(CLI::App* command, std::optional<AttentionScheme>* attention);
// --calibration, --static-scales, --no-overflow-guard
void AddCalibration(CLI::App* command, ModelOptions* options);
void AddJson(CLI::App* command, ModelOptions* options);
// Not as CLI11's optional, which would take an empty text for none.
CLI::Option* AddText(CLI::App* command, const char* name, std::optional<std::string>* text, const char* description);
// Size, steps, guidance, seed, the negative prompt.
void AddDraw(CLI::App* command, DrawOptions* draw);

}  // namespace fresco
