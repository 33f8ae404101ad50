// `fresco-model quantize`: writes a model in FP8 or int8.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/tool/options.h"
#include "pipeline/tool/quantize_model.h"

namespace fresco {

// Parses "PATTERN=SCHEME", the scheme as SchemeName calls it. INVALID_ARGUMENT for anything else.
absl::StatusOr<LayerTable::Rule> ParseLayerRule(const std::string& text);

// Keeps the worst layers high for the sake of a quality.
struct KeepOptions {
  std::optional<double> psnr;  // dB, of the pictures' median to fp32's; absent: no layer is kept
  std::string prompts_file;    // as ReadPrompts
};

// Shows the progress on standard error. --json: `path`, `precision`, `layers_quantized`, `bytes` and `source_bytes` (of
// the tensors), `seconds`; with keep.psnr also `kept_layers` (patterns), `psnr` and `psnr_without`. `options`: all but
// model, base and calibration, which are the model's, as are threads and json. `draw`: what is drawn for keep.psnr.
absl::Status RunQuantize(const ModelOptions& model, const DrawOptions& draw, const KeepOptions& keep,
                         QuantizeOptions options);

}  // namespace fresco
