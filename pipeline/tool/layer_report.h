// What a stage's layers take, beside what the device could do: rows of tables, and JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pipeline/engine/layer_times.h"
#include "pipeline/engine/measured_limits.h"

namespace fresco {

// Of the dtypes that the stages' layers multiply. Takes about half a second.
absl::StatusOr<MeasuredLimits> MeasureLimits(const std::string& device, absl::Span<const StageTimes> stages);

void PrintLimits(const MeasuredLimits& limits);

// A stage's kinds of layers and what is in none, then the `top` longest layers (0: all, in order of computation), then
// what is lost to gaps and the longest of these.
void PrintLayers(const StageTimes& times, int top, const MeasuredLimits& limits);

// {"peak_flops_per_second": {dtype: …}, "bandwidth_bytes_per_second": …}
nlohmann::ordered_json LimitsJson(const MeasuredLimits& limits);

// {"kinds": […], "layers": […], "gaps": […]}: all of them.
nlohmann::ordered_json LayersJson(const StageTimes& times, const MeasuredLimits& limits);

}  // namespace fresco
