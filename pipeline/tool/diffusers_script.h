// The text of reference/diffusers_stages.py, put into the program when it is built.
#pragma once

#include <string_view>

namespace fresco {

extern const std::string_view kDiffusersScript;

}  // namespace fresco
