#include "server/scheduler/out_of_memory.h"

#include "absl/strings/str_cat.h"
#include "server/scheduler/engine_calls.h"

namespace fresco {

absl::Status ExplainOutOfMemory(const absl::Status& status, MemoryReport report, Engine* engine, DeviceCaller* caller) {
  if (!absl::IsResourceExhausted(status)) return status;
  const auto ask = [&] { return absl::StatusOr<DeviceMemory>(CallMemoryOfDevice(engine)); };
  const DeviceMemory memory = caller->Make(DeviceCall::kAsk, 0, {}, ask).value_or(DeviceMemory());
  report.total_bytes = memory.total_bytes;
  report.free_bytes = memory.free_bytes;
  return absl::Status(status.code(), absl::StrCat(absl::string_view(status.message()), ": ", Describe(report)));
}

}  // namespace fresco
