// The page that `inspect --html` writes of a model's modules.
#pragma once

#include <string>
#include <vector>

#include "pipeline/tool/module_tree.h"

namespace fresco {

// Self-contained HTML: the parts as one bar, the tree of their modules to open and close, each with its share, and the
// scales of each linear that is stored with some. `summary`: a sentence below the title, as text.
std::string ModulesPage(const std::string& title, const std::string& summary, const std::vector<Module>& parts);

}  // namespace fresco
