// What a profiler is told of a scope (precision/layer_scope.h), read back.
#pragma once

#include <ATen/core/ivalue.h>

#include <optional>
#include <string>
#include <unordered_map>

#include "pipeline/engine/recording.h"

namespace fresco {

// Its name, level and work, without its times. Nothing for what is no scope of ours, or a kernel's.
std::optional<RecordedScope> ScopeOf(std::string name, const std::unordered_map<std::string, c10::IValue>& arguments);

}  // namespace fresco
