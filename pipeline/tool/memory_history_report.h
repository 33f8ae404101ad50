// What `profile` says of memory over time.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "pipeline/engine/memory_timeline.h"

namespace fresco {

// A table for people: the peak of each stage, and who has how much then.
void PrintMemory(const MemoryHistory& history, const std::string& device);

// {"device", "peak": {"stage", "seconds", "bytes", "held"}, "stages": [...], "timeline": [{"seconds", "bytes",
// "held"}]}: seconds since the first stage began, "held" a list of {"component", "kind", "bytes"}.
nlohmann::ordered_json MemoryJson(const MemoryHistory& history, const std::string& device);

// A trace in Chrome's format whose times count from its baseTimeNanoseconds, as Kineto writes it, with counters that a
// viewer stacks by holder. What is no such trace stays as it is.
std::string WithMemoryCounters(const std::string& trace, const MemoryHistory& history, const std::string& device);

}  // namespace fresco
