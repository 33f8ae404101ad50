// How the subcommands print --json.
#pragma once

#include <cstdio>
#include <nlohmann/json.hpp>

namespace fresco {

// One line. Names of files and devices need not be UTF-8: what is not becomes the replacement character.
inline void PrintJson(const nlohmann::ordered_json& json) {
  std::printf("%s\n", json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
}

}  // namespace fresco
