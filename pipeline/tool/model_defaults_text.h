// The text of a model folder's fresco.yaml.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "pipeline/precision/layer_table.h"

namespace fresco {

// `text` with its key `layers`, which is the last then, set to these rules: a map of patterns to schemes, in order.
// Unchanged where there are none. Throws yaml-cpp's exceptions for a text that is no YAML.
std::string WithLayers(std::string_view text, const std::vector<LayerTable::Rule>& rules);

}  // namespace fresco
