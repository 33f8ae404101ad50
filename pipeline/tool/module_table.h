// How `inspect` shows the tree of modules: as a table, and as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pipeline/tool/module_tree.h"

namespace fresco {

// Of all of them, as stored.
int64_t BytesOf(const std::vector<Module>& parts);
// "F8_E4M3, BF16": what has the most first.
std::string TypesText(const std::map<std::string, int64_t>& counts);
// "128: 0.0012 to 0.0043"; empty where there are none.
std::string ScalesText(const std::optional<ScaleRange>& scales);

// To standard output, a line for each module down to `depth` levels below its part (0: all of them), with its share of
// what all parts take together.
void PrintModules(const std::vector<Module>& parts, int depth);

// name, path, alike, dtypes, computed, tensors, parameters, bytes, share (of all parts' bytes), scales (null or count,
// min, max), device, modules (a list of the same).
nlohmann::ordered_json ModulesJson(const std::vector<Module>& parts, const std::string& device);

}  // namespace fresco
