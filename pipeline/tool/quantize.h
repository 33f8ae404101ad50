// `fresco-model quantize`: writes a model in FP8 or int8.
#pragma once

#include "absl/status/status.h"
#include "pipeline/tool/options.h"
#include "pipeline/tool/quantize_model.h"

namespace fresco {

// Parses "PATTERN=SCHEME", the scheme as SchemeName calls it. INVALID_ARGUMENT for anything else.
absl::StatusOr<LayerTable::Rule> ParseLayerRule(const std::string& text);

// Shows the progress on standard error. --json: `path`, `precision`, `layers_quantized`, `bytes` and `source_bytes` (of
// the tensors), `seconds`. `options`: all but model and base, which are the model's, as are threads and json.
absl::Status RunQuantize(const ModelOptions& model, QuantizeOptions options);

}  // namespace fresco
