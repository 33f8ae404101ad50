// What `profile` says of memory over time.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "pipeline/engine/memory_timeline.h"

namespace fresco {

// A table for people: the peak of each stage, and who has how much then.
void PrintMemory(const MemoryHistory& history, const std::string& device);

// {"device", "peak": {"stage", "seconds", "bytes", "held"}, "stages": [...], "timeline": [{"seconds", "bytes",
// "held"}]}: seconds since the first stage began, "held" a list of {"component", "kind", "bytes"}.
nlohmann::ordered_json MemoryJson(const MemoryHistory& history, const std::string& device);

// A trace in Chrome's format, with counters that a viewer stacks by holder, on the axis of time of `like`: a trace as
// Kineto writes it, whose times count from its baseTimeNanoseconds.
std::string MemoryTrace(const MemoryHistory& history, const std::string& device, std::string_view like);

}  // namespace fresco
