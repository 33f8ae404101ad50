// For tests and for comparing a model stage by stage.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string_view>

namespace fresco {

// Called with the name of a stage and its result, in the order of computation. The tensor is only valid during the call
// (it may be overwritten afterwards: clone it to keep it). An empty function costs nothing.
using Observer = std::function<void(std::string_view name, const at::Tensor& value)>;

}  // namespace fresco
