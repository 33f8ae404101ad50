// What a caller is told whose image ran out of a device's memory.
#pragma once

#include "absl/status/status.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/device_caller.h"
#include "server/scheduler/memory_report.h"

namespace fresco {

// `status`; RESOURCE_EXHAUSTED with who holds the memory: where the engine has not said so itself (memory_shortage.h),
// `report`, and what the device says of itself, which is asked: whoever calls looks at caller->ours() before anything
// else.
absl::Status ExplainOutOfMemory(const absl::Status& status, MemoryReport report, Engine* engine, DeviceCaller* caller);

}  // namespace fresco
